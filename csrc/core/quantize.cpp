#include "core/quantize.h"

#include "core/errors.h"
#include "core/log_queue.h"
#include "llama.h"

namespace dmr {

void quantize(const std::string & source, const std::string & target, int32_t file_type, int32_t num_threads,
              size_t max_buffer_bytes) {
    require(file_type >= 0 && file_type < LLAMA_FTYPE_GUESSED, "file_type is out of range");
    require(num_threads >= 1 && num_threads <= 512, "num_threads is 1 to 512");
    require(max_buffer_bytes >= 1, "max_buffer_bytes is out of range");

    auto params         = llama_model_quantize_default_params();
    params.ftype        = static_cast<llama_ftype>(file_type);
    params.nthread      = num_threads;
    params.max_buf_size = max_buffer_bytes;
    forget_last_errors();
    if (llama_model_quantize(source.c_str(), target.c_str(), &params) != 0) {
        const auto reason = last_errors();
        throw Error(reason.empty() ? "the weights cannot be quantized" : reason);
    }
}

}  // namespace dmr
