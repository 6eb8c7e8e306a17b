// How a context is made, and which of it can be had: what llama.cpp would answer with an abort is refused here.
#pragma once

#include <cstdint>
#include <string>

struct llama_context_params;

namespace dmr {

class Model;

// Positions in the rotary embedding. 0 = as the file says; a negative factor too.
struct RopeOptions {
    std::string scaling          = "model";  // "model", "none", "linear", "yarn", "longrope"
    float       freq_base        = 0.0F;
    float       freq_scale       = 0.0F;  // 1/2 = room for twice as many positions
    uint32_t    yarn_orig_ctx    = 0;     // tokens of the context before it was stretched
    float       yarn_ext_factor  = -1.0F;
    float       yarn_attn_factor = -1.0F;
    float       yarn_beta_fast   = -1.0F;
    float       yarn_beta_slow   = -1.0F;
};

struct ContextOptions {
    uint32_t    context_size       = 0;     // cells of KV memory; 0 = as trained
    uint32_t    max_batch          = 512;   // tokens of one decode, run as one pass
    uint32_t    max_sequences      = 1;     // 1..256
    uint32_t    max_outputs        = 0;     // rows with logits of one decode; 0 = max_sequences
    bool        unified            = true;  // one pool of cells for all sequences; false = a stream of its own for each
    bool        embeddings         = false;
    std::string pooling            = "model";  // "model", "none", "mean", "cls", "last", "rank"
    std::string flash_attention    = "auto";   // "auto", "on", "off"
    std::string key_type           = "f16";    // see `cache_types`; a quantized one needs flash attention
    std::string value_type         = "f16";
    bool        offload_cells      = true;  // KV memory lies where the layers are computed; false = with the CPU
    bool        offload_operations = true;  // a device computes large batches also of weights that the CPU holds
    int32_t     num_threads        = 1;     // of a decode of one token
    int32_t     num_batch_threads  = 0;     // of larger ones; 0 = the same
    uint32_t    thread_polling     = 50;    // 0 = idle compute threads sleep at once, 100 = they spin for long
    RopeOptions rope;
};

// Throws std::invalid_argument.
void check_options(const ContextOptions & options, const Model & model);

// Cells that the context will have.
uint32_t context_size_of(const ContextOptions & options, const Model & model);

// What llama.cpp is told of checked options. Batch, sequences and outputs are left to the caller.
llama_context_params to_params(const ContextOptions & options);

}  // namespace dmr
