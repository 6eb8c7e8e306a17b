#pragma once

// Kernels of ours in the place of some of ggml's: attention (attention_operation.h), products with quantized weights
// (matrix_product.h; where vectors are made float_product.h, and norms beside it, norm.h) and GELU (gelu.h). Compiled
// into ggml's CPU library with the flags of its kernels, and reached through the hook that it has for buffer types of
// other kernels.

#include <cstdint>

#if defined(_WIN32)
#define DMR_CPU_EXPORT __declspec(dllexport)
#else
#define DMR_CPU_EXPORT __attribute__((visibility("default")))
#endif

extern "C" {

// Compute in our way from now on, or, with 0, in ggml's. Any thread, between two graphs.
DMR_CPU_EXPORT void dmr_use_own_kernels(int is_used);

// Whether graphs that these threads compute multiply floats (float_product.h). Any thread, between two graphs of
// theirs; it has to be taken back before they are freed. Whether they do: the processor may not be able to, and there
// is room for some sixty.
DMR_CPU_EXPORT int dmr_multiply_floats(const struct ggml_threadpool * threads, int is_wanted);

// How many operations were computed in our way in this process. Any thread.
DMR_CPU_EXPORT int64_t dmr_num_own_operations(void);
}
