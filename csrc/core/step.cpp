#include "core/step.h"

#include <exception>

#include "core/errors.h"

namespace dmr {
namespace {

RowResult finish_row(const Model & model, const Row & row, const float * logits) {
    RowResult result;
    try {
        result.sampled = row.sampler->sample(logits);
        result.is_end  = model.is_end(result.sampled.token);
        if (result.is_end) {
            result.text = row.detokenizer->flush();
        } else {
            result.text       = row.detokenizer->push(result.sampled.token);
            result.stopped_by = row.detokenizer->stopped_by();
        }
    } catch (const std::exception & error) {
        result.error = error.what();
    }
    return result;
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
    for (const auto & row : rows) {
        const bool known = row.index >= 0 && row.index < batch.size();
        require(known && batch.outputs[static_cast<size_t>(row.index)] != 0, "a row has no output in this batch");
    }
    StepResult result;
    result.status = context.decode(batch);
    if (result.status != DecodeStatus::done) {
        return result;
    }
    // The first access to the outputs reorders them: fetch all pointers here, on one thread.
    std::vector<const float *> logits;
    for (const auto & row : rows) {
        logits.push_back(context.logits(row.index));
    }
    result.rows.resize(rows.size());
    pool.run(rows.size(), [&](size_t i) { result.rows[i] = finish_row(*context.model(), rows[i], logits[i]); });
    return result;
}

std::vector<Sampled> score_rows(const Context & context, const std::vector<ScoreRow> & rows, ThreadPool & pool) {
    std::vector<const float *> logits;
    for (const auto & row : rows) {
        context.model()->require_token(row.target);
        require(row.num_top >= 0 && row.num_top <= max_logprobs, "num_top is out of range");
        logits.push_back(context.logits(row.index));
    }
    std::vector<Sampled> results(rows.size());
    pool.run(rows.size(), [&](size_t i) { results[i] = score_row(*context.model(), rows[i], logits[i]); });
    return results;
}

}  // namespace dmr
