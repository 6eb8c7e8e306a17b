// The tokens of one decode, of any mix of sequences. Plain vectors; checked by Context before it runs.
#pragma once

#include <cstdint>
#include <vector>

#include "core/model.h"

namespace dmr {

using SequenceId = int32_t;

struct Batch {
    std::vector<Token>      tokens;
    std::vector<int32_t>    positions;
    std::vector<SequenceId> sequence_ids;
    std::vector<int8_t>     outputs;  // 1 = logits (or an embedding) are wanted at this place

    void clear() {
        tokens.clear();
        positions.clear();
        sequence_ids.clear();
        outputs.clear();
    }

    int32_t size() const { return static_cast<int32_t>(tokens.size()); }

    // Appends consecutive tokens of one sequence, from `first_position` on. Returns the index of the last one.
    int32_t add(SequenceId sequence, const std::vector<Token> & more, int32_t first_position, bool output_all,
                bool output_last) {
        for (size_t i = 0; i < more.size(); ++i) {
            tokens.push_back(more[i]);
            // Wraps instead of overflowing; the check of the whole batch finds it.
            positions.push_back(static_cast<int32_t>(static_cast<uint32_t>(first_position) + static_cast<uint32_t>(i)));
            sequence_ids.push_back(sequence);
            outputs.push_back(output_all || (output_last && i + 1 == more.size()) ? 1 : 0);
        }
        return size() - 1;
    }
};

}  // namespace dmr
