#include "core/logits.h"

#include <algorithm>
#include <cmath>

namespace dmr {
namespace {

constexpr int32_t num_lanes  = 16;  // compared side by side, so that the compiler uses vector instructions
constexpr int32_t block_size = 16 * num_lanes;

bool larger(const llama_token_data & a, const llama_token_data & b) { return a.logit > b.logit; }

// Of one whole block; NaN values are passed over.
float largest_of_block(const float * block) {
    float lanes[num_lanes];
    std::copy_n(block, num_lanes, lanes);
    for (int32_t i = num_lanes; i < block_size; i += num_lanes) {
        for (int32_t lane = 0; lane < num_lanes; ++lane) {
            lanes[lane] = block[i + lane] > lanes[lane] ? block[i + lane] : lanes[lane];
        }
    }
    return *std::max_element(lanes, lanes + num_lanes);
}

bool has_nan(const float * values, int32_t count) {
    int32_t num_nan = 0;
    for (int32_t i = 0; i < count; ++i) {
        num_nan += values[i] != values[i] ? 1 : 0;
    }
    return num_nan > 0;
}

}  // namespace

Token argmax(const float * logits, int32_t count) {
    if (has_nan(logits, count)) {
        return -1;
    }
    Token         best  = 0;
    const int32_t whole = count - count % block_size;
    for (int32_t start = 0; start < whole; start += block_size) {
        // Nearly no block has a larger value than all before it.
        if (largest_of_block(logits + start) > logits[best]) {
            best = static_cast<Token>(std::max_element(logits + start, logits + start + block_size) - logits);
        }
    }
    for (Token token = whole; token < count; ++token) {
        best = logits[token] > logits[best] ? token : best;
    }
    return best;
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
        const bool is_full = static_cast<int32_t>(selected.size()) == k;
        if (is_full && token % block_size == 0 && count - token >= block_size &&
            largest_of_block(logits + token) <= selected.front().logit) {
            token += block_size - 1;  // nothing in this block
            continue;
        }
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
