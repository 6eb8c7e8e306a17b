#pragma once

// The norm of models for embeddings (https://arxiv.org/abs/1607.06450, without the gain and the bias, which are
// operations of their own): 16 numbers at a time, where ggml adds them up one after the other, and each thread takes
// rows that lie together, as it does before and afterwards. Not what ggml gives to the last bit.

#include "ggml-cpu-impl.h"
#include "ggml.h"

namespace dmr::cpu {

// Whether this is a norm that `compute_norm` computes.
bool can_compute_norm(const ggml_tensor * op);

// All threads of a graph call this.
void compute_norm(const ggml_compute_params * params, ggml_tensor * op);

}  // namespace dmr::cpu
