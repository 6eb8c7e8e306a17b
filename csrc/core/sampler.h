// Chooses the next token of one sequence. Owns its random state, its penalties' memory and its grammar.
//
// The chain: logit bias, then the stages of `order` that are switched on, then the draw. Mirostat replaces the stages
// by temperature and itself. A thought that is too long ends before all of that. Different samplers may be used on
// different threads at the same time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/grammar.h"
#include "core/logits.h"
#include "core/model.h"
#include "core/sampler_options.h"
#include "core/sampler_thought.h"

struct llama_sampler;

namespace dmr {

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
    bool    gives_logprobs() const { return options_.num_logprobs >= 0; }

  private:
    struct Free {
        void operator()(llama_sampler * sampler) const;
    };
    using Handle = std::unique_ptr<llama_sampler, Free>;

    void                     collect_biases();
    void                     build_chain();
    void                     build_stages();
    void                     add_stage(const std::string & name);
    void                     add_penalties();
    void                     add_dry();
    bool                     is_on(const std::string & stage) const;
    std::unique_ptr<Grammar> make_grammar() const;
    void                     prefill_grammar();
    void                     add(llama_sampler * sampler);
    bool                     looks_back() const;
    bool                     is_plain_greedy() const;
    Token                    choose(const float * logits);
    Token                    draw();
    Token                    draw_from(const float * row, int32_t num_candidates);
    Token                    end_of_grammar();

    const float * biased(const float * logits);
    static Token  likeliest_of(const float * row, Token likeliest);

    std::shared_ptr<Model>               model_;
    SamplerOptions                       options_;
    Handle                               chain_;
    std::unique_ptr<Grammar>             grammar_;        // null = none
    std::unique_ptr<ThoughtLimit>        thought_limit_;  // null = none
    bool                                 preselects_top_k_ = false;
    bool                                 is_broken_        = false;
    std::vector<llama_token_data>        candidates_;
    std::vector<std::pair<Token, float>> biases_;  // what is added to logits; minus infinity forbids
    std::vector<float>                   biased_logits_;
};

}  // namespace dmr
