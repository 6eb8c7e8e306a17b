#include "core/sampler_options.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/errors.h"
#include "core/grammar_check.h"

namespace dmr {
namespace {

constexpr size_t max_trigger_bytes = 4096;  // std::regex parses and matches recursively
constexpr size_t max_triggers      = 256;
constexpr size_t max_breakers      = 64;
constexpr size_t max_tag_bytes     = 256;

constexpr int32_t max_infill_candidates = 256;

const char * const stage_names[] = {"penalties", "dry", "top_n_sigma", "top_k",      "typ_p", "top_p",
                                    "min_p",     "xtc", "temperature", "adaptive_p", "infill"};

void require_stages(const std::vector<std::string> & order) {
    for (size_t i = 0; i < order.size(); ++i) {
        const bool known = std::find(std::begin(stage_names), std::end(stage_names), order[i]) != std::end(stage_names);
        require(known, "there is no sampler named " + order[i]);
        require(std::find(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(i), order[i]) ==
                    order.begin() + static_cast<std::ptrdiff_t>(i),
                "the sampler " + order[i] + " is named twice");
    }
}

// The infill stage compares each candidate with each other one, and asserts that there is a token to end with.
void require_infill(const SamplerOptions & o, const Model & model) {
    const auto infill = std::find(o.order.begin(), o.order.end(), "infill");
    if (infill != o.order.end()) {
        require(std::find(o.order.begin(), infill, "top_k") != infill && o.top_k > 0 &&
                    o.top_k <= max_infill_candidates,
                "infill needs top_k before it, with at most " + std::to_string(max_infill_candidates));
        require(model.eot() >= 0 || model.eos() >= 0, "infill needs a model with an end token");
    }
}

void require_thought(const SamplerOptions & o) {
    require(o.thought_budget >= -1, "thought_budget is out of range");
    if (o.thought_budget >= 0) {
        require(!o.thought_end.empty(), "thought_end is empty");
        require(o.thought_is_open || !o.thought_start.empty(), "thought_start is empty");
    }
    require(o.thought_start.size() <= max_tag_bytes, "thought_start is too long");
    require(o.thought_end.size() <= max_tag_bytes, "thought_end is too long");
}

void require_finite(float value, const char * name) {
    require(std::isfinite(value), std::string(name) + " must be a finite number");
}

void require_range(float value, float low, float high, const char * name) {
    require(value >= low && value <= high, std::string(name) + " is out of range");
}

}  // namespace

void check_options(const SamplerOptions & o, const Model & model) {
    for (const auto & [value, name] : {std::pair{o.temperature, "temperature"},
                                       {o.dynatemp_range, "dynatemp_range"},
                                       {o.dynatemp_exponent, "dynatemp_exponent"},
                                       {o.top_n_sigma, "top_n_sigma"},
                                       {o.presence_penalty, "presence_penalty"},
                                       {o.frequency_penalty, "frequency_penalty"},
                                       {o.dry_multiplier, "dry_multiplier"},
                                       {o.dry_base, "dry_base"},
                                       {o.mirostat_tau, "mirostat_tau"},
                                       {o.mirostat_eta, "mirostat_eta"},
                                       {o.adaptive_target, "adaptive_target"}}) {
        require_finite(value, name);
    }
    require_stages(o.order);
    require_infill(o, model);
    require_thought(o);
    require_range(o.top_p, 0.0F, 1.0F, "top_p");
    require_range(o.min_p, 0.0F, 1.0F, "min_p");
    require_range(o.typical_p, 0.0F, 1.0F, "typical_p");
    require_range(o.xtc_probability, 0.0F, 1.0F, "xtc_probability");
    require_range(o.xtc_threshold, 0.0F, 1.0F, "xtc_threshold");
    require_range(o.adaptive_decay, 0.0F, 0.99F, "adaptive_decay");
    require(std::isfinite(o.repeat_penalty) && o.repeat_penalty > 0.0F && std::isfinite(1.0F / o.repeat_penalty),
            "repeat_penalty must be greater than 0");
    require(o.top_k >= 0, "top_k is out of range");
    require(o.repeat_last_n >= -1, "repeat_last_n is out of range");
    require(o.dry_penalty_last_n >= -1, "dry_penalty_last_n is out of range");
    require(o.dry_allowed_length >= 0, "dry_allowed_length is out of range");
    require(o.dry_sequence_breakers.size() <= max_breakers, "there are too many dry_sequence_breakers");
    require(o.mirostat >= 0 && o.mirostat <= 2, "mirostat is 0, 1 or 2");
    require(o.min_keep >= 0, "min_keep is out of range");
    require(o.num_logprobs >= -1 && o.num_logprobs <= max_logprobs, "num_logprobs is out of range");
    check_grammar(o.grammar);
    require(!o.grammar_lazy || o.grammar.empty() || !o.grammar_triggers.empty(), "a lazy grammar needs a trigger");
    require(o.grammar_triggers.size() <= max_triggers, "there are too many grammar triggers");
    for (const auto & trigger : o.grammar_triggers) {
        require(!trigger.value.empty() && trigger.value.size() <= max_trigger_bytes,
                "a grammar trigger is empty or too long");
    }
    for (const auto & [token, bias] : o.logit_bias) {
        model.require_token(token);
        require(!std::isnan(bias) && bias != std::numeric_limits<float>::infinity(), "logit_bias must be a number");
    }
}

}  // namespace dmr
