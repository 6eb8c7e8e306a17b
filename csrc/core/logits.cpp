#include "core/logits.h"

#include <algorithm>
#include <cmath>

namespace dmr {
namespace {

bool larger(const llama_token_data & a, const llama_token_data & b) { return a.logit > b.logit; }

}  // namespace

Token argmax(const float * logits, int32_t count) {
    Token best    = 0;
    bool  numbers = true;
    for (int32_t i = 0; i < count; ++i) {
        numbers = numbers && logits[i] == logits[i];
        if (logits[i] > logits[best]) {
            best = i;
        }
    }
    return numbers ? best : -1;
}

void select_top(const float * logits, int32_t count, int32_t k, std::vector<llama_token_data> & selected) {
    selected.clear();
    if (k >= count) {
        selected.reserve(static_cast<size_t>(count));
        for (Token token = 0; token < count; ++token) {
            selected.push_back({token, logits[token], 0.0F});
        }
        return;
    }
    if (k <= 0) {
        return;
    }
    // A heap whose root is the smallest kept value: nearly all of a vocabulary fails the first comparison.
    selected.reserve(static_cast<size_t>(k));
    for (Token token = 0; token < count; ++token) {
        if (static_cast<int32_t>(selected.size()) < k) {
            selected.push_back({token, logits[token], 0.0F});
            std::push_heap(selected.begin(), selected.end(), larger);
        } else if (logits[token] > selected.front().logit) {
            std::pop_heap(selected.begin(), selected.end(), larger);
            selected.back() = {token, logits[token], 0.0F};
            std::push_heap(selected.begin(), selected.end(), larger);
        }
    }
}

float log_sum_exp(const float * logits, int32_t count) {
    const float largest = *std::max_element(logits, logits + count);
    double      sum     = 0.0;
    for (int32_t i = 0; i < count; ++i) {
        sum += std::exp(logits[i] - largest);
    }
    return largest + static_cast<float>(std::log(sum));
}

std::vector<TokenProbability> top_probabilities(const float * logits, int32_t count, int32_t k, float log_sum) {
    std::vector<llama_token_data> selected;
    select_top(logits, count, k, selected);
    std::sort(selected.begin(), selected.end(), larger);
    std::vector<TokenProbability> top;
    top.reserve(selected.size());
    for (const auto & entry : selected) {
        top.push_back({entry.id, entry.logit - log_sum});
    }
    return top;
}

}  // namespace dmr
