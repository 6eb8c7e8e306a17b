#include "core/step.h"

#include <algorithm>
#include <tuple>

#include "core/draft.h"
#include "python/handles.h"

namespace dmr::python {
namespace {

// The objects of the rows, kept alive and from all others while the step runs without the GIL.
class Rows {
  public:
    explicit Rows(const py::sequence & items) {
        const size_t count = items.size();
        owners_.reserve(count);
        rows_.reserve(count);
        samplers_.reserve(count);
        detokenizers_.reserve(count);
        mutexes_.reserve(2 * count);
        for (const auto & item : items) {
            add(item.cast<py::tuple>());
        }
        // Always locked in the order of addresses, so that two steps cannot wait for each other.
        std::sort(mutexes_.begin(), mutexes_.end());
        const bool repeats = std::adjacent_find(mutexes_.begin(), mutexes_.end()) != mutexes_.end();
        require(!repeats, "each row needs a sampler and a detokenizer of its own");
    }

    const std::vector<Row> & rows() const { return rows_; }

    std::vector<std::unique_lock<std::mutex>> lock() const {
        std::vector<std::unique_lock<std::mutex>> locks;
        locks.reserve(mutexes_.size());
        for (auto * mutex : mutexes_) {
            locks.emplace_back(*mutex);
        }
        return locks;
    }

  private:
    void add(py::tuple item) {
        require(item.size() == 3, "a row is (index, sampler, detokenizer)");
        auto & sampler     = item[1].cast<SamplerHandle &>();
        auto & detokenizer = item[2].cast<DetokenizerHandle &>();
        samplers_.push_back(sampler.shared());
        detokenizers_.push_back(detokenizer.shared());
        mutexes_.push_back(&sampler.use_mutex());
        mutexes_.push_back(&detokenizer.use_mutex());
        rows_.push_back({item[0].cast<int32_t>(), samplers_.back().get(), detokenizers_.back().get()});
        owners_.push_back(std::move(item));
    }

    std::vector<py::tuple>                    owners_;
    std::vector<std::shared_ptr<Sampler>>     samplers_;  // whoever closes one cannot take it away
    std::vector<std::shared_ptr<Detokenizer>> detokenizers_;
    std::vector<std::mutex *>                 mutexes_;
    std::vector<Row>                          rows_;
};

StepResult step(ContextHandle & context, const Batch & batch, const py::sequence & items, ThreadPoolHandle & pool) {
    const Rows             rows(items);
    const Batch            mine = batch;  // nobody else can change it meanwhile
    py::gil_scoped_release released;
    return pool.alone([&](ThreadPool & threads) {
        return context.alone([&](Context & c) {
            const auto locks = rows.lock();
            return run_step(c, mine, rows.rows(), threads);
        });
    });
}

// A tuple with named fields: of all that Python has, the quickest to make and to read.
PyTypeObject * row_type() {
    static PyStructSequence_Field fields[] = {
        {"tokens", "The new tokens: one, and one more for each right guess; empty if there is an error."},
        {"text", "What became certain; may be empty."},
        {"is_end", "The last token ends the answer; it has no text."},
        {"stopped_by", "Index of the stop string that ended the answer, or -1."},
        {"sampled", "The tokens with their log probabilities; empty unless the sampler gives any."},
        {"error", "Why there is no token; empty = all is well."},
        {nullptr, nullptr},
    };
    static PyStructSequence_Desc description{"dmr._core.RowResult", "One row of a step.", fields, 6};
    static PyTypeObject *        type = PyStructSequence_NewType(&description);
    return type;
}

py::object python_row(const RowResult & result) {
    auto row = py::reinterpret_steal<py::object>(PyStructSequence_New(row_type()));
    if (!row) {
        throw py::error_already_set();
    }
    py::tuple tokens(result.sampled.size());
    py::tuple sampled(result.has_logprobs ? result.sampled.size() : 0);
    for (size_t i = 0; i < result.sampled.size(); ++i) {
        tokens[i] = result.sampled[i].token;
        if (result.has_logprobs) {
            sampled[i] = py::cast(result.sampled[i]);
        }
    }
    const auto set = [&](py::ssize_t field, py::object value) {
        PyStructSequence_SetItem(row.ptr(), field, value.release().ptr());
    };
    set(0, std::move(tokens));
    set(1, py::str(result.text));
    set(2, py::bool_(result.is_end));
    set(3, py::int_(result.stopped_by));
    set(4, std::move(sampled));
    set(5, decoded(result.error));
    return row;
}

py::list python_rows(const StepResult & result) {
    py::list rows(result.rows.size());
    for (size_t i = 0; i < result.rows.size(); ++i) {
        rows[i] = python_row(result.rows[i]);
    }
    return rows;
}

std::vector<Sampled> score(ContextHandle & context, const std::vector<std::tuple<int32_t, Token, int32_t>> & items,
                           ThreadPoolHandle & pool) {
    std::vector<ScoreRow> rows;
    rows.reserve(items.size());
    for (const auto & [index, target, num_top] : items) {
        rows.push_back({index, target, num_top});
    }
    return pool.alone(
        [&](ThreadPool & threads) { return context.alone([&](Context & c) { return score_rows(c, rows, threads); }); });
}

std::optional<std::vector<std::vector<Token>>> make_drafts(
    ContextHandle & context, const std::vector<std::tuple<SequenceId, std::vector<Token>, int32_t, int32_t>> & items,
    float least_probability) {
    std::vector<DraftRow> rows;
    rows.reserve(items.size());
    for (const auto & [sequence, tokens, first_position, count] : items) {
        rows.push_back({sequence, tokens, first_position, count});
    }
    return context.alone([&](Context & c) { return draft(c, rows, least_probability); });
}

}  // namespace

void register_step(py::module_ & module) {
    py::class_<ThreadPoolHandle>(module, "ThreadPool", "Threads that share out the rows of a step.")
        .def(py::init([](size_t num_threads) {
                 require(num_threads >= 1 && num_threads <= 256, "num_threads is out of range 1..256");
                 return std::make_unique<ThreadPoolHandle>(std::make_shared<ThreadPool>(num_threads));
             }),
             py::arg("num_threads"));
    module.attr("RowResult") = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject *>(row_type()));
    py::class_<StepResult>(module, "StepResult")
        .def_readonly("status", &StepResult::status)
        .def_property_readonly("rows", python_rows);
    module.def("step", step, py::arg("context"), py::arg("batch"), py::arg("rows"), py::arg("pool"),
               "Decode the batch; sample, detokenize and stop-search each (index of the last certain token, sampler,\n"
               "detokenizer), for as long as the guesses after that place are right.\n\n"
               "Raises ValueError (nothing was changed) and DecodeError. A row's own failure is in its `error`.");
    module.def(
        "score", score, py::arg("context"), py::arg("rows"), py::arg("pool"), ReleaseGil(),
        "Log probabilities of each (index, token, number of likeliest tokens), from the outputs of the last decode.\n\n"
        "The token of a result is -1 where a logit is not a number.");
    module.def("draft", make_drafts, py::arg("context"), py::arg("rows"), py::arg("least_probability"), ReleaseGil(),
               "The likeliest tokens after each (sequence, tokens to compute first, first position, count).\n\n"
               "None: there was no room. Raises ValueError and DecodeError.");
}

}  // namespace dmr::python
