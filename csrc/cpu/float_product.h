#pragma once

// Products of quantized weights and rows of numbers as models for embeddings have them: in floats of 16 bits (bfloat16)
// with sums of 32. ggml rounds numbers to 8 bits with a scale of each 32, and scales every 32 products; floats need no
// scales, so that a tile is summed up where it is multiplied, four times as fast, and what comes out is closer to
// what weights and numbers really give. It is not what ggml gives to the last bit, so text is not computed in this way.
// What a row gets does not depend on how many others there are.

#include "ggml-cpu-impl.h"
#include "ggml.h"

namespace dmr::cpu {

// Whether the processor can do it.
bool has_float_products();

// Bytes of the work space that it needs.
size_t size_of_float_product(const ggml_tensor * op);

// All threads of a graph call this, for what `can_multiply` of matrix_product.h.
void multiply_floats(const ggml_compute_params * params, ggml_tensor * op);

}  // namespace dmr::cpu
