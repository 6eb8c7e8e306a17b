// Arithmetic over one row of logits.
#pragma once

#include <cstdint>
#include <vector>

#include "core/model.h"
#include "llama.h"

namespace dmr {

struct TokenProbability {
    Token token;
    float logprob;  // natural logarithm
};

// The first of the largest; -1 when a value is not a number.
Token argmax(const float * logits, int32_t count);

// The `k` largest, unordered. k >= count gives all.
void select_top(const float * logits, int32_t count, int32_t k, std::vector<llama_token_data> & selected);

// ln(sum(exp(logits))).
float log_sum_exp(const float * logits, int32_t count);

// The `k` likeliest with their log-probabilities, likeliest first.
std::vector<TokenProbability> top_probabilities(const float * logits, int32_t count, int32_t k, float log_sum);

}  // namespace dmr
