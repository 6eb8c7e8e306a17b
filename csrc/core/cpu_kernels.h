#pragma once

#include <cstdint>

struct ggml_threadpool;

namespace dmr {

// Whether what csrc/cpu has kernels for is computed on the CPU with them or with ggml's. Call it between two graphs.
// False: this build has none.
bool use_own_kernels(bool is_used);

// Whether graphs that these threads compute multiply floats where they would multiply quantized numbers: closer and
// faster, but not what ggml gives. Any thread, between two graphs of theirs; it has to be taken back before they are
// freed. Nothing changes where the build or the processor cannot do it.
void multiply_floats(const ggml_threadpool * threads, bool is_wanted);

// How many operations were computed with them in this process. Any thread.
int64_t num_own_operations();

}  // namespace dmr
