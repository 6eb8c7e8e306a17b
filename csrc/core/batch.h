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
    std::vector<int8_t>     drafts;   // 1 = a guess that follows a sequence's certain tokens

    void clear() {
        tokens.clear();
        positions.clear();
        sequence_ids.clear();
        outputs.clear();
        drafts.clear();
    }

    int32_t size() const { return static_cast<int32_t>(tokens.size()); }

    // Appends consecutive tokens of one sequence, from `first_position` on, and guesses at what follows them, each with
    // an output. Returns the index of the last certain one.
    int32_t add(SequenceId sequence, const std::vector<Token> & more, int32_t first_position, bool output_all,
                bool output_last, const std::vector<Token> & guesses) {
        // Wraps instead of overflowing; the check of the whole batch finds it.
        auto position = static_cast<uint32_t>(first_position);
        for (size_t i = 0; i < more.size(); ++i) {
            push(sequence, more[i], position++, output_all || (output_last && i + 1 == more.size()), false);
        }
        const int32_t last = size() - 1;
        for (const Token guess : guesses) {
            push(sequence, guess, position++, true, true);
        }
        return last;
    }

    // How many guesses stand behind this place.
    int32_t num_drafts_after(int32_t index) const {
        int32_t end = index + 1;
        while (end < size() && drafts[static_cast<size_t>(end)] != 0) {
            ++end;
        }
        return end - index - 1;
    }

  private:
    void push(SequenceId sequence, Token token, uint32_t position, bool output, bool draft) {
        tokens.push_back(token);
        positions.push_back(static_cast<int32_t>(position));
        sequence_ids.push_back(sequence);
        outputs.push_back(output ? 1 : 0);
        drafts.push_back(draft ? 1 : 0);
    }
};

}  // namespace dmr
