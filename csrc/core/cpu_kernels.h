#pragma once

#include <cstdint>

namespace dmr {

// Whether what csrc/cpu has kernels for is computed on the CPU with them or with ggml's. Call it between two graphs.
// False: this build has none.
bool use_own_kernels(bool is_used);

// How many operations were computed with them in this process. Any thread.
int64_t num_own_operations();

}  // namespace dmr
