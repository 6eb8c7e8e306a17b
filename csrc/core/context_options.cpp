#include "core/context_options.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/errors.h"
#include "core/model.h"
#include "ggml-cpu.h"
#include "llama.h"

namespace dmr {
namespace {

constexpr uint32_t max_context_size = 1U << 24;
constexpr uint32_t max_batch_size   = 1U << 16;

ggml_type cache_type(const std::string & name) {
    static const std::map<std::string, ggml_type> types = {
        {"f32", GGML_TYPE_F32},   {"f16", GGML_TYPE_F16},   {"bf16", GGML_TYPE_BF16},
        {"q8_0", GGML_TYPE_Q8_0}, {"q5_1", GGML_TYPE_Q5_1}, {"q5_0", GGML_TYPE_Q5_0},
        {"q4_1", GGML_TYPE_Q4_1}, {"q4_0", GGML_TYPE_Q4_0}, {"iq4_nl", GGML_TYPE_IQ4_NL},
    };
    const auto found = types.find(name);
    require(found != types.end(), "unknown type of KV cells: " + name);
    return found->second;
}

enum llama_pooling_type pooling_type(const std::string & name) {
    static const std::map<std::string, enum llama_pooling_type> types = {
        {"model", LLAMA_POOLING_TYPE_UNSPECIFIED}, {"none", LLAMA_POOLING_TYPE_NONE}, {"mean", LLAMA_POOLING_TYPE_MEAN},
        {"cls", LLAMA_POOLING_TYPE_CLS},           {"last", LLAMA_POOLING_TYPE_LAST}, {"rank", LLAMA_POOLING_TYPE_RANK},
    };
    const auto found = types.find(name);
    require(found != types.end(), "unknown pooling: " + name);
    return found->second;
}

llama_flash_attn_type flash_attention_type(const std::string & name) {
    if (name == "auto") {
        return LLAMA_FLASH_ATTN_TYPE_AUTO;
    }
    require(name == "on" || name == "off", "flash_attention is auto, on or off, not " + name);
    return name == "on" ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
}

enum llama_rope_scaling_type rope_scaling_type(const std::string & name) {
    static const std::map<std::string, enum llama_rope_scaling_type> types = {
        {"model", LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED}, {"none", LLAMA_ROPE_SCALING_TYPE_NONE},
        {"linear", LLAMA_ROPE_SCALING_TYPE_LINEAR},     {"yarn", LLAMA_ROPE_SCALING_TYPE_YARN},
        {"longrope", LLAMA_ROPE_SCALING_TYPE_LONGROPE},
    };
    const auto found = types.find(name);
    require(found != types.end(), "unknown scaling of the rotary embedding: " + name);
    return found->second;
}

// Cells are blocks of 32 numbers there, which a head need not be a multiple of: with flash attention llama.cpp looks,
// without it an assertion of ggml does.
void check_cells(const ContextOptions & options) {
    const bool is_quantized =
        ggml_is_quantized(cache_type(options.key_type)) || ggml_is_quantized(cache_type(options.value_type));
    require(!is_quantized || flash_attention_type(options.flash_attention) != LLAMA_FLASH_ATTN_TYPE_DISABLED,
            "quantized KV cells need flash attention");
}

void check_rope(const RopeOptions & rope) {
    rope_scaling_type(rope.scaling);
    require(std::isfinite(rope.freq_base) && rope.freq_base >= 0, "rope.freq_base is out of range");
    require(std::isfinite(rope.freq_scale) && rope.freq_scale >= 0, "rope.freq_scale is out of range");
    require(rope.yarn_orig_ctx <= max_context_size, "rope.yarn_orig_ctx is out of range");
    for (const float factor : {rope.yarn_ext_factor, rope.yarn_attn_factor, rope.yarn_beta_fast, rope.yarn_beta_slow}) {
        require(std::isfinite(factor), "a factor of rope is not a number");
    }
}

void check_threads(const ContextOptions & options) {
    require(options.num_threads >= 1 && options.num_threads <= GGML_MAX_N_THREADS, "num_threads is out of range");
    require(options.num_batch_threads >= 0 && options.num_batch_threads <= GGML_MAX_N_THREADS,
            "num_batch_threads is out of range");
    require(options.thread_polling <= 100, "thread_polling is out of range 0..100");
}

}  // namespace

uint32_t context_size_of(const ContextOptions & options, const Model & model) {
    return options.context_size == 0 ? static_cast<uint32_t>(std::max(model.context_length(), 1))
                                     : options.context_size;
}

void check_options(const ContextOptions & options, const Model & model) {
    require(options.context_size <= max_context_size, "context_size is over " + std::to_string(max_context_size));
    require(options.max_batch >= 1 && options.max_batch <= max_batch_size, "max_batch is out of range");
    require(options.max_sequences >= 1 && options.max_sequences <= llama_max_parallel_sequences(),
            "max_sequences is out of range 1.." + std::to_string(llama_max_parallel_sequences()));
    // llama.cpp reserves outputs for all sequences within one batch, and a batch never exceeds the context.
    require(options.max_sequences <= std::min(options.max_batch, context_size_of(options, model)),
            "max_sequences is over max_batch or over context_size");
    require(!(model.has_encoder() && model.has_decoder()), "encoder-decoder models are not supported");
    check_threads(options);
    check_cells(options);
    check_rope(options.rope);
}

llama_context_params to_params(const ContextOptions & options) {
    auto params              = llama_context_default_params();
    params.n_ctx             = options.context_size;
    params.kv_unified        = options.unified;
    params.swa_full          = true;  // cells are counted as if no window forgot any
    params.embeddings        = options.embeddings;
    params.pooling_type      = pooling_type(options.pooling);
    params.flash_attn_type   = flash_attention_type(options.flash_attention);
    params.type_k            = cache_type(options.key_type);
    params.type_v            = cache_type(options.value_type);
    params.offload_kqv       = options.offload_cells;
    params.op_offload        = options.offload_operations;
    params.n_threads         = options.num_threads;
    params.n_threads_batch   = options.num_batch_threads == 0 ? options.num_threads : options.num_batch_threads;
    params.rope_scaling_type = rope_scaling_type(options.rope.scaling);
    params.rope_freq_base    = options.rope.freq_base;
    params.rope_freq_scale   = options.rope.freq_scale;
    params.yarn_orig_ctx     = options.rope.yarn_orig_ctx;
    params.yarn_ext_factor   = options.rope.yarn_ext_factor;
    params.yarn_attn_factor  = options.rope.yarn_attn_factor;
    params.yarn_beta_fast    = options.rope.yarn_beta_fast;
    params.yarn_beta_slow    = options.rope.yarn_beta_slow;
    return params;
}

}  // namespace dmr
