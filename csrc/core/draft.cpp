#include "core/draft.h"

#include <cmath>

#include "core/errors.h"
#include "core/logits.h"

namespace dmr {
namespace {

constexpr float negligible = 16.0F;  // below the largest logit: less than e^-16 of its probability

// -1 when it is not likely enough.
Token likeliest(const float * logits, int32_t count, float least_probability) {
    const Token token = argmax(logits, count);
    if (token < 0 || least_probability <= 0.0F) {
        return token;
    }
    const float largest = logits[token];
    float       sum     = 0.0F;  // of all probabilities, as multiples of the largest
    for (int32_t i = 0; i < count; ++i) {
        if (logits[i] > largest - negligible) {
            sum += std::exp(logits[i] - largest);
        }
    }
    return sum * least_probability <= 1.0F ? token : -1;
}

}  // namespace

std::optional<std::vector<std::vector<Token>>> draft(Context & context, const std::vector<DraftRow> & rows,
                                                     float least_probability) {
    std::vector<std::vector<Token>> guesses(rows.size());
    std::vector<size_t>             active;  // rows of this round
    std::vector<int32_t>            places;  // of their last tokens in the batch
    Batch                           batch;
    for (size_t i = 0; i < rows.size(); ++i) {
        require(!rows[i].tokens.empty(), "a draft needs a token to begin with");
        const int32_t place =
            batch.add(rows[i].sequence, rows[i].tokens, rows[i].first_position, false, rows[i].count > 0, {});
        if (rows[i].count > 0) {
            active.push_back(i);
            places.push_back(place);
        }
    }
    while (batch.size() > 0) {
        if (context.decode(batch) != DecodeStatus::done) {
            return std::nullopt;
        }
        batch.clear();
        std::vector<size_t>  still_active;
        std::vector<int32_t> next_places;
        for (size_t k = 0; k < active.size(); ++k) {
            const auto & row  = rows[active[k]];
            auto &       mine = guesses[active[k]];
            const Token  guess =
                likeliest(context.logits(places[k]), context.model()->num_vocabulary(), least_probability);
            if (guess < 0) {
                continue;
            }
            mine.push_back(guess);
            const auto num_guesses = static_cast<int32_t>(mine.size());
            if (num_guesses < row.count) {
                const auto position = row.first_position + static_cast<int32_t>(row.tokens.size()) + num_guesses - 1;
                still_active.push_back(active[k]);
                next_places.push_back(batch.add(row.sequence, {guess}, position, false, true, {}));
            }
        }
        active.swap(still_active);
        places.swap(next_places);
    }
    return guesses;
}

}  // namespace dmr
