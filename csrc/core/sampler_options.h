// How tokens are chosen: the parameters of a sampler, and which of them can be used.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/model.h"

namespace dmr {

constexpr int32_t max_logprobs = 1024;

struct GrammarTrigger {
    enum class Kind { word, pattern, full_pattern } kind = Kind::word;
    std::string value;
};

struct SamplerOptions {
    // llama.cpp's own order and names; "adaptive_p" and "infill" may be added.
    std::vector<std::string>             order          = {"penalties", "dry",   "top_n_sigma", "top_k",      "typ_p",
                                                           "top_p",     "min_p", "xtc",         "temperature"};
    float                                temperature    = 0.8F;  // <= 0: the likeliest token
    float                                dynatemp_range = 0.0F;
    float                                dynatemp_exponent  = 1.0F;
    int32_t                              top_k              = 40;  // 0 = off
    float                                top_p              = 0.95F;
    float                                min_p              = 0.05F;
    float                                typical_p          = 1.0F;
    float                                top_n_sigma        = -1.0F;
    float                                xtc_probability    = 0.0F;
    float                                xtc_threshold      = 0.1F;
    int32_t                              repeat_last_n      = 64;  // -1 = the trained context
    float                                repeat_penalty     = 1.0F;
    float                                presence_penalty   = 0.0F;
    float                                frequency_penalty  = 0.0F;
    float                                dry_multiplier     = 0.0F;
    float                                dry_base           = 1.75F;
    int32_t                              dry_allowed_length = 2;
    int32_t                              dry_penalty_last_n = 64;  // -1 = the trained context
    std::vector<std::string>             dry_sequence_breakers;
    int32_t                              mirostat        = 0;  // 0, 1, 2
    float                                mirostat_tau    = 5.0F;
    float                                mirostat_eta    = 0.1F;
    float                                adaptive_target = -1.0F;
    float                                adaptive_decay  = 0.9F;
    int32_t                              min_keep        = 0;
    uint32_t                             seed            = 0;
    std::vector<std::pair<Token, float>> logit_bias;
    bool                                 ignore_eos = false;
    std::string                          grammar;               // GBNF, root rule "root"; empty = none
    std::string                          grammar_prefill;       // text it takes before the first token
    bool                                 grammar_lazy = false;  // starts at a trigger
    std::vector<GrammarTrigger>          grammar_triggers;
    int32_t                              num_logprobs   = -1;      // -1 = none; k = chosen token and k likeliest
    int32_t                              thought_budget = -1;      // tokens of a thought; -1 = no limit
    std::string                          thought_start;            // the tag that begins one; empty = none begins
    std::string                          thought_end;              // the tag that ends it
    bool                                 thought_is_open = false;  // one has begun before the first token
};

// Throws std::invalid_argument for values out of range, GrammarError for a grammar that llama.cpp must not see.
void check_options(const SamplerOptions & options, const Model & model);

}  // namespace dmr
