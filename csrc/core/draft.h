// Guesses at what follows, made by a small model: always its likeliest token.
#pragma once

#include <optional>
#include <vector>

#include "core/context.h"

namespace dmr {

struct DraftRow {
    SequenceId         sequence;
    std::vector<Token> tokens;          // to compute first; not empty
    int32_t            first_position;  // of them
    int32_t            count;           // how many guesses are wanted; 0 = the tokens are only computed
};

// The guesses of each row: fewer than wanted where the likeliest token is less likely than `least_probability`, or a
// logit is not a number. Rows are decoded together, place by place. Afterwards the memory holds the tokens of each row
// and all of its guesses but the last. Nothing: there was no room, and what the rows' sequences hold is not known.
// Throws as Context::decode does.
std::optional<std::vector<std::vector<Token>>> draft(Context & context, const std::vector<DraftRow> & rows,
                                                     float least_probability);

}  // namespace dmr
