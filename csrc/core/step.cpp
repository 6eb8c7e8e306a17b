#include "core/step.h"

#include <algorithm>
#include <exception>

#include "core/errors.h"

namespace dmr {
namespace {

// The row's places in the batch: that of its last certain token, and its guesses.
struct Places {
    std::vector<const float *> logits;
    const Token *              guesses;  // one less than there are logits
};

// Draws the next token; false: nothing may follow it.
bool advance(const Model & model, const Row & row, const float * logits, RowResult & result) {
    result.sampled.push_back(row.sampler->sample(logits));
    const Token token = result.sampled.back().token;
    result.is_end     = model.is_end(token);
    if (result.is_end) {
        result.text += row.detokenizer->flush();
        return false;
    }
    result.text += row.detokenizer->push(token);
    result.stopped_by = row.detokenizer->stopped_by();
    return result.stopped_by < 0;
}

// Nanoseconds that the choice of a token takes at least: each logit is looked at.
size_t cost_of_row(const Model & model) { return static_cast<size_t>(model.num_vocabulary()); }

RowResult finish_row(const Model & model, const Row & row, const Places & places) {
    RowResult result;
    result.has_logprobs = row.sampler->gives_logprobs();
    try {
        for (size_t i = 0; i < places.logits.size(); ++i) {
            const bool may_go_on = advance(model, row, places.logits[i], result);
            const bool is_last   = i + 1 == places.logits.size();
            if (!may_go_on || is_last || result.sampled.back().token != places.guesses[i]) {
                break;
            }
        }
    } catch (const std::exception & error) {
        result       = {};
        result.error = error.what();
    }
    return result;
}

void check_rows(const Context & context, const Batch & batch, const std::vector<Row> & rows) {
    int32_t num_expected = 0;
    for (const auto & row : rows) {
        const bool known = row.index >= 0 && row.index < batch.size();
        require(known && batch.outputs[static_cast<size_t>(row.index)] != 0, "a row has no output in this batch");
        num_expected += batch.num_drafts_after(row.index);
    }
    const auto num_drafts = std::count(batch.drafts.begin(), batch.drafts.end(), 1);
    require(num_drafts == num_expected, "guesses need a row before them, and one only");
    require(num_drafts == 0 || context.can_truncate(), "this model's memory cannot take back a guess");
}

void remove_wrong_guesses(Context & context, const Batch & batch, const Row & row, const RowResult & result) {
    const auto index     = static_cast<size_t>(row.index);
    const auto num_right = static_cast<int32_t>(std::max<size_t>(result.sampled.size(), 1)) - 1;
    if (num_right == batch.num_drafts_after(row.index)) {
        return;
    }
    if (!context.remove(batch.sequence_ids[index], batch.positions[index] + 1 + num_right, -1)) {
        throw DecodeError("wrong guesses could not be taken out of the memory");
    }
}

// The token of the result is -1 when the logits are no numbers.
Sampled score_row(const Model & model, const ScoreRow & row, const float * logits) {
    const int32_t count = model.num_vocabulary();
    Sampled       scored;
    if (argmax(logits, count) >= 0) {
        const float log_sum = log_sum_exp(logits, count);
        scored.token        = row.target;
        scored.logprob      = logits[row.target] - log_sum;
        scored.top          = top_probabilities(logits, count, row.num_top, log_sum);
    }
    return scored;
}

}  // namespace

StepResult run_step(Context & context, const Batch & batch, const std::vector<Row> & rows, ThreadPool & pool) {
    check_rows(context, batch, rows);
    StepResult result;
    result.status = context.decode(batch);
    if (result.status != DecodeStatus::done) {
        return result;
    }
    // The first access to the outputs reorders them: fetch all pointers here, on one thread.
    std::vector<Places> places(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
        const int32_t index = rows[i].index;
        places[i].guesses   = batch.tokens.data() + index + 1;
        for (int32_t place = index; place <= index + batch.num_drafts_after(index); ++place) {
            places[i].logits.push_back(context.logits(place));
        }
    }
    result.rows.resize(rows.size());
    const Model & model = *context.model();
    pool.run(rows.size(), cost_of_row(model),
             [&](size_t i) { result.rows[i] = finish_row(model, rows[i], places[i]); });
    for (size_t i = 0; i < rows.size(); ++i) {
        remove_wrong_guesses(context, batch, rows[i], result.rows[i]);
    }
    return result;
}

std::vector<Sampled> score_rows(const Context & context, const std::vector<ScoreRow> & rows, ThreadPool & pool) {
    const Model &              model = *context.model();
    std::vector<const float *> logits;
    for (const auto & row : rows) {
        model.require_token(row.target);
        require(row.num_top >= 0 && row.num_top <= max_logprobs, "num_top is out of range");
        logits.push_back(context.logits(row.index));
    }
    std::vector<Sampled> results(rows.size());
    pool.run(rows.size(), cost_of_row(model), [&](size_t i) { results[i] = score_row(model, rows[i], logits[i]); });
    return results;
}

}  // namespace dmr
