#pragma once

#include <cstdint>

namespace dmr {

// Whether several sequences' attention is computed on the CPU in our way (csrc/cpu/attention.h) or in ggml's; the
// results are the same. Call it between two graphs. False: there is no such way in this build.
bool use_own_attention(bool is_used);

// How many operations were computed in our way in this process. Any thread.
int64_t num_own_attentions();

}  // namespace dmr
