#include "core/step.h"

#include <algorithm>
#include <exception>
#include <map>

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

void check_parts(const Context & context, const Batch & batch, const std::vector<int32_t> & parts) {
    require(parts.size() < 2 || context.can_truncate(), "this model's memory cannot take back a part");
    int32_t                   end = 0;
    std::map<SequenceId, int> part_of;
    for (size_t part = 0; part < parts.size(); ++part) {
        require(parts[part] > 0 && parts[part] <= batch.size() - end, "the parts are not those of the batch");
        for (const int32_t begin = end; end < begin + parts[part]; ++end) {
            const auto number = static_cast<int>(part);
            const auto known  = part_of.emplace(batch.sequence_ids[static_cast<size_t>(end)], number).first;
            require(known->second == number, "a sequence is in two parts");
        }
    }
    require(parts.empty() || end == batch.size(), "the parts are not those of the batch");
}

// Decodes parts one by one, and keeps the outputs of all but the last, since the next decode takes their place.
class Decodes {
  public:
    Decodes(Context & context, const Batch & batch) : context_(context), batch_(batch) {}

    DecodeStatus run(const std::vector<int32_t> & parts) {
        if (parts.size() < 2) {
            return context_.decode(batch_);
        }
        for (size_t i = 0; i < parts.size(); ++i) {
            const auto status = context_.decode(batch_.part(begin_, begin_ + parts[i]));
            if (status != DecodeStatus::done) {
                take_back();
                return status;
            }
            if (i + 1 < parts.size()) {
                keep_outputs(begin_ + parts[i]);
            }
        }
        return DecodeStatus::done;
    }

    const float * logits(int32_t index) const {
        return index < begin_ ? kept_.at(index).data() : context_.logits(index - begin_);
    }

  private:
    void keep_outputs(int32_t end) {
        const auto count = static_cast<size_t>(context_.model()->num_vocabulary());
        for (int32_t index = begin_; index < end; ++index) {
            if (batch_.outputs[static_cast<size_t>(index)] != 0) {
                const float * row = context_.logits(index - begin_);
                kept_.emplace(index, std::vector<float>(row, row + count));
            }
        }
        begin_ = end;
    }

    void take_back() {
        std::map<SequenceId, int32_t> firsts;
        for (int32_t index = 0; index < begin_; ++index) {
            const auto place = static_cast<size_t>(index);
            firsts.emplace(batch_.sequence_ids[place], batch_.positions[place]);
        }
        for (const auto & [sequence, first] : firsts) {
            if (!context_.remove(sequence, first, -1)) {
                throw DecodeError("a part of a step could not be taken out of the memory");
            }
        }
    }

    Context &                             context_;
    const Batch &                         batch_;
    int32_t                               begin_ = 0;  // of the part that was decoded last
    std::map<int32_t, std::vector<float>> kept_;       // by place in the batch
};

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

StepResult run_step(Context & context, const Batch & batch, const std::vector<Row> & rows, ThreadPool & pool,
                    const std::vector<int32_t> & parts) {
    check_rows(context, batch, rows);
    check_parts(context, batch, parts);
    Decodes    decodes(context, batch);
    StepResult result;
    result.status = decodes.run(parts);
    if (result.status != DecodeStatus::done) {
        return result;
    }
    // The first access to the outputs reorders them: fetch all pointers here, on one thread.
    std::vector<Places> places(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
        const int32_t index = rows[i].index;
        places[i].guesses   = batch.tokens.data() + index + 1;
        for (int32_t place = index; place <= index + batch.num_drafts_after(index); ++place) {
            places[i].logits.push_back(decodes.logits(place));
        }
    }
    result.rows.resize(rows.size());
    pool.run(rows.size(), [&](size_t i) { result.rows[i] = finish_row(*context.model(), rows[i], places[i]); });
    for (size_t i = 0; i < rows.size(); ++i) {
        remove_wrong_guesses(context, batch, rows[i], result.rows[i]);
    }
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
