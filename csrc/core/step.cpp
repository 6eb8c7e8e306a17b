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

}  // namespace dmr
