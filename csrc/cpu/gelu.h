#pragma once

// The GELU of models for embeddings, out of ggml's table for 16 numbers at a time, where ggml takes one at a time: a
// fifth of what MiniLM computes. To the last bit the same.

#include "ggml-cpu-impl.h"
#include "ggml.h"

namespace dmr::cpu {

// Whether this is a GELU that `compute_gelu` computes.
bool can_compute_gelu(const ggml_tensor * op);

// All threads of a graph call this.
void compute_gelu(const ggml_compute_params * params, ggml_tensor * op);

}  // namespace dmr::cpu
