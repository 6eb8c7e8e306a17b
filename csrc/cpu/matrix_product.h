#pragma once

// Products of quantized weights and several rows of numbers on CPUs with AMX, to the last bit what ggml computes. ggml
// keeps the sums of a tile in memory and has them loaded, scaled and stored for every 32 numbers of a row; here they
// stay in registers until a tile is done, and weights are unpacked once for all rows.

#include "ggml-cpu-impl.h"
#include "ggml.h"

namespace dmr::cpu {

// Whether this is a product that `multiply` computes. The weights have to be as ggml lays them out for AMX.
bool can_multiply(const ggml_tensor * op);

// Whether it has enough rows of numbers.
bool pays_to_multiply(const ggml_tensor * op);

// Bytes of the work space that it needs.
size_t size_of_product(const ggml_tensor * op);

// All threads of a graph call this.
void multiply(const ggml_compute_params * params, ggml_tensor * op);

}  // namespace dmr::cpu
