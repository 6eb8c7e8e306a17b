#pragma once

#include <string>

namespace dmr {

// Whether ggml's AMX kernels would compute this model wrong. They take the place of a matrix in a batch of inputs for
// its place in a batch of matrices, and read past the end of the only one there is. Inputs come in batches where each
// sequence has a state of its own: in recurrent and hybrid models.
bool is_wrong_on_amx(const char * path);

}  // namespace dmr
