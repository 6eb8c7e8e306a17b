// Chooses the next token of one sequence. Owns its random state, its penalties' memory and its grammar.
//
// Order of the chain (llama.cpp's): logit bias, penalties, DRY, top-n-sigma, top-k, typical, top-p, min-p, XTC,
// temperature, draw. Different samplers may be used on different threads at the same time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/logits.h"
#include "core/model.h"

struct llama_sampler;

namespace dmr {

struct GrammarTrigger {
    enum class Kind { word, pattern, full_pattern } kind = Kind::word;
    std::string value;
};

struct SamplerOptions {
    float                                temperature        = 0.8F;  // <= 0: the likeliest token
    float                                dynatemp_range     = 0.0F;
    float                                dynatemp_exponent  = 1.0F;
    int32_t                              top_k              = 40;    // 0 = off
    float                                top_p              = 0.95F;
    float                                min_p              = 0.05F;
    float                                typical_p          = 1.0F;
    float                                top_n_sigma        = -1.0F;
    float                                xtc_probability    = 0.0F;
    float                                xtc_threshold      = 0.1F;
    int32_t                              repeat_last_n      = 64;    // -1 = the trained context
    float                                repeat_penalty     = 1.0F;
    float                                presence_penalty   = 0.0F;
    float                                frequency_penalty  = 0.0F;
    float                                dry_multiplier     = 0.0F;
    float                                dry_base           = 1.75F;
    int32_t                              dry_allowed_length = 2;
    int32_t                              dry_penalty_last_n = 64;    // -1 = the trained context
    std::vector<std::string>             dry_sequence_breakers;
    int32_t                              mirostat           = 0;     // 0, 1, 2
    float                                mirostat_tau       = 5.0F;
    float                                mirostat_eta       = 0.1F;
    float                                adaptive_target    = -1.0F;
    float                                adaptive_decay     = 0.9F;
    int32_t                              min_keep           = 0;
    uint32_t                             seed               = 0;
    std::vector<std::pair<Token, float>> logit_bias;
    bool                                 ignore_eos         = false;
    std::string                          grammar;                    // GBNF, root rule "root"; empty = none
    std::string                          grammar_prefill;            // text it takes before the first token
    bool                                 grammar_lazy       = false;  // starts at a trigger
    std::vector<GrammarTrigger>          grammar_triggers;
    int32_t                              num_logprobs       = -1;     // -1 = none; k = chosen token and k likeliest
};

struct Sampled {
    Token                         token   = -1;
    float                         logprob = 0.0F;  // under the model's own distribution; set if asked for
    std::vector<TokenProbability> top;
};

class Sampler {
  public:
    // Throws std::invalid_argument for values out of range and GrammarError for a grammar that cannot be used.
    Sampler(std::shared_ptr<Model> model, SamplerOptions options);
    ~Sampler();
    Sampler(const Sampler &)             = delete;
    Sampler & operator=(const Sampler &) = delete;

    // Shows the sampler tokens that were there before it (the prompt), for the penalties.
    void observe(const std::vector<Token> & tokens);
    // Chooses and accepts. `logits`: num_vocabulary floats. Throws GrammarError, Error (not a number).
    Sampled sample(const float * logits);

    int32_t num_vocabulary() const { return model_->num_vocabulary(); }

  private:
    struct Free {
        void operator()(llama_sampler * sampler) const;
    };
    using Handle = std::unique_ptr<llama_sampler, Free>;

    void   build_chain();
    void   build_truncation();
    Handle make_grammar() const;
    void   prefill_grammar();
    void   add(llama_sampler * sampler);
    bool   looks_back() const;
    bool   is_plain_greedy() const;
    Token  choose(const float * logits);
    Token  draw();
    bool   grammar_allows(Token token);

    std::shared_ptr<Model>        model_;
    SamplerOptions                options_;
    Handle                        chain_;
    Handle                        grammar_;
    bool                          preselects_top_k_ = false;
    bool                          is_broken_        = false;
    std::vector<llama_token_data> candidates_;
};

}  // namespace dmr
