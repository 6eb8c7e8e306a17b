#include "core/sampler.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <regex>

#include "core/errors.h"
#include "llama.h"

namespace dmr {
namespace {

int32_t window(int32_t last_n, const Model & model) {
    const int32_t longest = std::max(model.context_length(), 1);
    return last_n < 0 ? longest : std::min(last_n, longest);
}

std::string escape_pattern(const std::string & text) {
    static const std::regex special(R"([.^$|()*+?\[\]{}\\])");
    return std::regex_replace(text, special, R"(\$&)");
}

std::string anchored(const std::string & pattern) {
    std::string whole = pattern;
    if (whole.empty() || whole.front() != '^') {
        whole.insert(whole.begin(), '^');
    }
    return whole.back() == '$' ? whole : whole + '$';
}

}  // namespace

void Sampler::Free::operator()(llama_sampler * sampler) const { llama_sampler_free(sampler); }

Sampler::Sampler(std::shared_ptr<Model> model, SamplerOptions options)
    : model_(std::move(model)), options_(std::move(options)) {
    require(model_->num_vocabulary() > 0, "the model has no vocabulary");
    check_options(options_, *model_);
    if (options_.seed == LLAMA_DEFAULT_SEED) {
        --options_.seed;  // that value would mean "any seed"
    }
    chain_.reset(llama_sampler_chain_init(llama_sampler_chain_default_params()));
    collect_biases();
    build_chain();
    grammar_ = make_grammar();
    prefill_grammar();
    if (options_.thought_budget >= 0) {
        thought_limit_ = std::make_unique<ThoughtLimit>(model_, options_);
    }
}

Sampler::~Sampler() = default;

void Sampler::add(llama_sampler * sampler) {
    if (sampler == nullptr) {
        throw Error("a sampler could not be made");
    }
    llama_sampler_chain_add(chain_.get(), sampler);
}

// Whether a stage is in the order and would change anything.
bool Sampler::is_on(const std::string & stage) const {
    const auto & o = options_;
    if (std::find(o.order.begin(), o.order.end(), stage) == o.order.end()) {
        return false;
    }
    if (stage == "penalties") {
        return o.repeat_last_n != 0 &&
               (o.repeat_penalty != 1.0F || o.presence_penalty != 0.0F || o.frequency_penalty != 0.0F);
    }
    if (stage == "dry") {
        return o.dry_multiplier != 0.0F && o.dry_penalty_last_n != 0;
    }
    if (stage == "xtc") {
        return o.xtc_probability > 0.0F;
    }
    return true;
}

bool Sampler::looks_back() const { return options_.mirostat == 0 && (is_on("penalties") || is_on("dry")); }

void Sampler::collect_biases() {
    constexpr float forbidden = -std::numeric_limits<float>::infinity();
    biases_.assign(options_.logit_bias.begin(), options_.logit_bias.end());
    int32_t      num_suppressed = 0;
    const auto * suppressed     = llama_vocab_get_suppress_tokens(model_->vocab(), &num_suppressed);
    for (int32_t i = 0; i < num_suppressed; ++i) {
        biases_.emplace_back(suppressed[i], forbidden);
    }
    if (options_.ignore_eos) {
        for (const Token token : model_->end_tokens()) {
            biases_.emplace_back(token, forbidden);
        }
    }
}

// The row itself where there are no biases, else a copy of ours: cheaper than candidates for the whole vocabulary.
const float * Sampler::biased(const float * logits) {
    if (biases_.empty()) {
        return logits;
    }
    biased_logits_.assign(logits, logits + model_->num_vocabulary());
    for (const auto & [token, bias] : biases_) {
        biased_logits_[static_cast<size_t>(token)] += bias;
    }
    return biased_logits_.data();
}

void Sampler::build_chain() {
    const auto & o = options_;
    if (o.mirostat == 1) {
        add(llama_sampler_init_temp(o.temperature));
        add(llama_sampler_init_mirostat(model_->num_vocabulary(), o.seed, o.mirostat_tau, o.mirostat_eta, 100));
    } else if (o.mirostat == 2) {
        add(llama_sampler_init_temp(o.temperature));
        add(llama_sampler_init_mirostat_v2(o.seed, o.mirostat_tau, o.mirostat_eta));
    } else {
        build_stages();
    }
}

void Sampler::build_stages() {
    for (const auto & name : options_.order) {
        add_stage(name);
    }
    const bool adaptive = options_.adaptive_target >= 0.0F || is_on("adaptive_p");
    add(adaptive ? llama_sampler_init_adaptive_p(options_.adaptive_target, options_.adaptive_decay, options_.seed)
                 : llama_sampler_init_dist(options_.seed));
}

void Sampler::add_stage(const std::string & name) {
    const auto & o        = options_;
    const auto   min_keep = static_cast<size_t>(o.min_keep);
    if (name == "penalties") {
        add_penalties();
    } else if (name == "dry") {
        add_dry();
    } else if (name == "top_n_sigma" && o.top_n_sigma > 0.0F) {
        add(llama_sampler_init_top_n_sigma(o.top_n_sigma));
    } else if (name == "top_k" && o.top_k > 0) {
        // With nothing before it, top-k can run on the raw floats.
        preselects_top_k_ = preselects_top_k_ || llama_sampler_chain_n(chain_.get()) == 0;
        add(llama_sampler_init_top_k(o.top_k));
    } else if (name == "typ_p" && o.typical_p < 1.0F) {
        add(llama_sampler_init_typical(o.typical_p, min_keep));
    } else if (name == "top_p" && o.top_p < 1.0F) {
        add(llama_sampler_init_top_p(o.top_p, min_keep));
    } else if (name == "min_p" && o.min_p > 0.0F) {
        add(llama_sampler_init_min_p(o.min_p, min_keep));
    } else if (name == "xtc" && o.xtc_probability > 0.0F) {
        add(llama_sampler_init_xtc(o.xtc_probability, o.xtc_threshold, min_keep, o.seed));
    } else if (name == "temperature") {
        add(llama_sampler_init_temp_ext(o.temperature, o.dynatemp_range, o.dynatemp_exponent));
    } else if (name == "infill") {
        add(llama_sampler_init_infill(model_->vocab()));
    }
}

void Sampler::add_penalties() {
    const auto & o = options_;
    if (is_on("penalties")) {
        add(llama_sampler_init_penalties(model_->num_vocabulary(), window(o.repeat_last_n, *model_), o.repeat_penalty,
                                         o.frequency_penalty, o.presence_penalty));
    }
}

void Sampler::add_dry() {
    const auto & o = options_;
    if (!is_on("dry")) {
        return;
    }
    std::vector<const char *> breakers;
    for (const auto & text : o.dry_sequence_breakers) {
        breakers.push_back(text.c_str());
    }
    add(llama_sampler_init_dry(model_->vocab(), o.dry_multiplier, o.dry_base, o.dry_allowed_length,
                               window(o.dry_penalty_last_n, *model_), breakers.data(), breakers.size()));
}

std::unique_ptr<Grammar> Sampler::make_grammar() const {
    if (options_.grammar.empty()) {
        return nullptr;
    }
    if (!options_.grammar_lazy) {
        return std::make_unique<Grammar>(model_, options_.grammar, nullptr);
    }
    GrammarTriggers triggers;
    for (const auto & trigger : options_.grammar_triggers) {
        if (trigger.kind == GrammarTrigger::Kind::pattern) {
            triggers.patterns.push_back(trigger.value);
        } else if (trigger.kind == GrammarTrigger::Kind::full_pattern) {
            triggers.patterns.push_back(anchored(trigger.value));
        } else if (const auto ids = model_->tokenize(trigger.value, false, true); ids.size() == 1) {
            triggers.tokens.push_back(ids[0]);
        } else {
            triggers.patterns.push_back(escape_pattern(trigger.value));
        }
    }
    return std::make_unique<Grammar>(model_, options_.grammar, &triggers);
}

void Sampler::prefill_grammar() {
    if (grammar_ == nullptr || options_.grammar_lazy || options_.grammar_prefill.empty()) {
        return;
    }
    const auto & text   = options_.grammar_prefill;
    const auto   tokens = model_->tokenize(text, false, true);
    try {
        for (size_t i = 0; i < tokens.size(); ++i) {
            // Some tokenizers put a space before the first special token.
            const auto piece    = model_->piece(tokens[i], true);
            const bool is_added = i == 0 && !piece.empty() && std::isspace(static_cast<unsigned char>(piece[0])) != 0 &&
                                  std::isspace(static_cast<unsigned char>(text[0])) == 0;
            if (model_->is_end(tokens[i])) {
                throw GrammarError("an end token stands in it");
            }
            if (!is_added) {
                grammar_->accept(tokens[i]);
            }
        }
    } catch (const std::exception & error) {
        throw GrammarError(std::string("the grammar does not fit the prompt: ") + error.what());
    }
}

void Sampler::observe(const std::vector<Token> & tokens) {
    for (const Token token : tokens) {
        model_->require_token(token);
    }
    if (!looks_back()) {
        return;
    }
    // Only as many as the penalties can remember.
    const auto longest = static_cast<size_t>(
        std::max(window(options_.repeat_last_n, *model_), window(options_.dry_penalty_last_n, *model_)));
    const size_t first = tokens.size() > longest ? tokens.size() - longest : 0;
    for (size_t i = first; i < tokens.size(); ++i) {
        llama_sampler_accept(chain_.get(), tokens[i]);
    }
}

// The likeliest token is the answer, whatever truncation would do before.
bool Sampler::is_plain_greedy() const {
    const auto & o = options_;
    return o.temperature <= 0.0F && o.dynatemp_range == 0.0F && o.mirostat == 0 && o.adaptive_target < 0.0F &&
           is_on("temperature") && !is_on("xtc") && !is_on("adaptive_p") && !is_on("infill") && !looks_back();
}

Sampled Sampler::sample(const float * logits) {
    // A grammar that has refused a token is at no point of its text.
    if (is_broken_) {
        throw GrammarError("this sampler has failed before");
    }
    Sampled sampled;
    is_broken_    = true;
    sampled.token = choose(logits);
    llama_sampler_accept(chain_.get(), sampled.token);
    if (grammar_ != nullptr) {
        try {
            grammar_->accept(sampled.token);
        } catch (const std::exception & error) {
            throw GrammarError(error.what());
        }
    }
    if (thought_limit_ != nullptr) {
        thought_limit_->accept(sampled.token);
    }
    is_broken_ = false;
    if (options_.num_logprobs >= 0) {
        const int32_t count   = model_->num_vocabulary();
        const float   log_sum = log_sum_exp(logits, count);
        sampled.logprob       = logits[sampled.token] - log_sum;
        if (options_.num_logprobs > 0) {
            sampled.top = top_probabilities(logits, count, options_.num_logprobs, log_sum);
        }
    }
    return sampled;
}

// Draws first and asks the grammar about that one token; only a refusal makes it worth constraining the vocabulary.
Token Sampler::choose(const float * logits) {
    const Token likeliest = argmax(logits, model_->num_vocabulary());
    if (likeliest < 0) {
        throw Error("the model's output is not a number");
    }
    // A grammar that does not take the end of the thought here is asked again later.
    const Token forced = thought_limit_ == nullptr ? -1 : thought_limit_->forced();
    if (forced >= 0 && (grammar_ == nullptr || grammar_->allows(forced))) {
        return forced;
    }
    const int32_t count = model_->num_vocabulary();
    const float * row   = biased(logits);
    const Token   token = is_plain_greedy() ? likeliest_of(row, row == logits ? likeliest : argmax(row, count))
                                            : draw_from(row, preselects_top_k_ ? options_.top_k : count);
    if (token < 0) {
        throw Error("the logit biases forbid every token");
    }
    if (grammar_ == nullptr || grammar_->allows(token)) {
        return token;
    }
    select_top(logits, count, count, candidates_);
    llama_token_data_array all{candidates_.data(), candidates_.size(), -1, false};
    grammar_->constrain(all);
    const bool any = std::any_of(candidates_.begin(), candidates_.end(), [](const llama_token_data & candidate) {
        return candidate.logit != -std::numeric_limits<float>::infinity();
    });
    if (!any) {
        throw GrammarError("the grammar allows no token here");
    }
    for (const auto & [id, bias] : biases_) {
        candidates_[static_cast<size_t>(id)].logit += bias;  // all are there, in the order of their ids
    }
    const Token allowed = draw();
    return allowed >= 0 ? allowed : end_of_grammar();
}

// -1 when the biases forbid each token.
Token Sampler::likeliest_of(const float * row, Token likeliest) {
    return likeliest >= 0 && row[likeliest] > -std::numeric_limits<float>::infinity() ? likeliest : -1;
}

Token Sampler::draw_from(const float * row, int32_t num_candidates) {
    select_top(row, model_->num_vocabulary(), num_candidates, candidates_);
    return draw();
}

// The biases forbid all that the grammar allows: `ignore_eos` does at the end of every grammar.
Token Sampler::end_of_grammar() {
    for (const Token token : model_->end_tokens()) {
        if (grammar_->allows(token)) {
            return token;
        }
    }
    throw GrammarError("the logit biases forbid every token that the grammar allows");
}

// Runs the chain over `candidates_`; -1 when each of them is forbidden.
Token Sampler::draw() {
    llama_token_data_array array{candidates_.data(), candidates_.size(), -1, false};
    llama_sampler_apply(chain_.get(), &array);
    if (array.selected < 0 || static_cast<size_t>(array.selected) >= array.size) {
        throw Error("no token could be drawn");
    }
    const auto & selected = array.data[array.selected];
    return selected.logit == -std::numeric_limits<float>::infinity() ? -1 : selected.id;
}

}  // namespace dmr
