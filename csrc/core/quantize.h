// Smaller copies of a model's weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace dmr {

// Writes the weights of the GGUF file `source` (of split weights the first shard, named as llama.cpp names shards) as
// one file `target`, in llama.cpp's file type `file_type`. Only weights of full or half precision are taken.
//
// Takes minutes, and as much memory as the largest tensor needs plus `max_buffer_bytes`. It cannot be interrupted, and
// a damaged file may end the process: run it in one of its own. What it has done shows in the log only.
//
// Throws std::invalid_argument for a number that is out of range, Error with llama.cpp's own reason. What has been
// written by then stays.
void quantize(const std::string & source, const std::string & target, int32_t file_type, int32_t num_threads,
              size_t max_buffer_bytes);

}  // namespace dmr
