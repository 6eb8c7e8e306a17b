// One step of the engine in one call: decode a mixed batch, then sample, detokenize and look for stop strings of every
// row that has an output.
//
// A row whose place is followed by guesses goes on sampling as long as each token is the one that was guessed: its
// tokens are those that it would have got in as many steps, drawn from the same outputs by the same sampler. What was
// guessed wrongly is taken out of the memory again.
#pragma once

#include <string>
#include <vector>

#include "core/context.h"
#include "core/detokenizer.h"
#include "core/sampler.h"
#include "core/thread_pool.h"

namespace dmr {

struct Row {
    int32_t       index;  // of its last certain token in the batch; must have an output
    Sampler *     sampler;
    Detokenizer * detokenizer;
};

struct RowResult {
    std::vector<Sampled> sampled;  // one, and one more for each right guess; none if there is an error
    bool                 has_logprobs = false;
    bool                 is_end       = false;  // the last token ends the answer; it has no text
    int                  stopped_by   = -1;     // index of the stop string that ended the answer
    std::string          text;                  // what became certain; may be empty
    std::string          error;                 // this row failed; the others did not
};

struct ScoreRow {
    int32_t index;    // in the batch; must have an output
    Token   target;   // whose log-probability is wanted
    int32_t num_top;  // how many of the likeliest are wanted too
};

struct StepResult {
    DecodeStatus           status = DecodeStatus::done;
    std::vector<RowResult> rows;  // one for each Row, in order; empty unless done
};

// Afterwards the memory holds the certain tokens of each row and its right guesses; the last of a row's new tokens is
// never in it. Throws as Context::decode does. A row's own failure (grammar, numbers) stays in its result.
StepResult run_step(Context & context, const Batch & batch, const std::vector<Row> & rows, ThreadPool & pool);

// Log-probabilities under the model's own distribution, from the outputs of the last decode; one result for each row,
// whose token is -1 where the logits are no numbers. Throws std::invalid_argument for a row that has no output or a
// wrong target.
std::vector<Sampled> score_rows(const Context & context, const std::vector<ScoreRow> & rows, ThreadPool & pool);

}  // namespace dmr
