#include "core/step.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "python/handles.h"

namespace dmr::python {
namespace {

// Keeps the objects of a row alive while the step runs without the GIL.
struct PythonRow {
    int32_t                      index;
    py::tuple                    owner;
    SamplerHandle *              sampler_handle;
    DetokenizerHandle *          detokenizer_handle;
    std::shared_ptr<Sampler>     sampler;
    std::shared_ptr<Detokenizer> detokenizer;
};

std::vector<PythonRow> python_rows(const py::sequence & items) {
    std::vector<PythonRow> rows;
    std::set<const void *> seen;
    for (const auto & item : items) {
        const auto row = item.cast<py::tuple>();
        require(row.size() == 3, "a row is (index, sampler, detokenizer)");
        auto &     sampler     = row[1].cast<SamplerHandle &>();
        auto &     detokenizer = row[2].cast<DetokenizerHandle &>();
        PythonRow  entry{row[0].cast<int32_t>(), row, &sampler, &detokenizer, sampler.shared(), detokenizer.shared()};
        const bool fresh = seen.insert(entry.sampler.get()).second && seen.insert(entry.detokenizer.get()).second;
        require(fresh, "each row needs a sampler and a detokenizer of its own");
        rows.push_back(std::move(entry));
    }
    return rows;
}

// Nobody else may use the rows' objects meanwhile. Always in the order of addresses, so that two steps cannot wait for
// each other.
std::vector<std::unique_lock<std::mutex>> lock_rows(const std::vector<PythonRow> & rows) {
    std::vector<std::unique_lock<std::mutex>> locks;
    locks.reserve(2 * rows.size());
    for (const auto & row : rows) {
        locks.push_back(row.sampler_handle->use_lock());
        locks.push_back(row.detokenizer_handle->use_lock());
    }
    std::sort(locks.begin(), locks.end(), [](const auto & a, const auto & b) { return a.mutex() < b.mutex(); });
    for (auto & lock : locks) {
        lock.lock();
    }
    return locks;
}

StepResult step(ContextHandle & context, const Batch & batch, const py::sequence & items, ThreadPoolHandle & pool) {
    const auto       owners = python_rows(items);
    std::vector<Row> rows;
    for (const auto & owner : owners) {
        rows.push_back({owner.index, owner.sampler.get(), owner.detokenizer.get()});
    }
    const Batch            mine = batch;
    py::gil_scoped_release released;
    return pool.alone([&](ThreadPool & threads) {
        return context.alone([&](Context & c) {
            const auto locks = lock_rows(owners);
            return run_step(c, mine, rows, threads);
        });
    });
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

}  // namespace

void register_step(py::module_ & module) {
    py::class_<ThreadPoolHandle>(module, "ThreadPool", "Threads that share out the rows of a step.")
        .def(py::init([](size_t num_threads) {
                 require(num_threads >= 1 && num_threads <= 256, "num_threads is out of range 1..256");
                 return std::make_unique<ThreadPoolHandle>(std::make_shared<ThreadPool>(num_threads));
             }),
             py::arg("num_threads"));
    py::class_<RowResult>(module, "RowResult", "One row of a step.")
        .def_property_readonly("token", [](const RowResult & r) { return r.sampled.token; })
        .def_property_readonly("logprob", [](const RowResult & r) { return r.sampled.logprob; })
        .def_property_readonly("top", [](const RowResult & r) { return r.sampled.top; })
        .def_readonly("is_end", &RowResult::is_end)
        .def_readonly("stopped_by", &RowResult::stopped_by)
        .def_readonly("text", &RowResult::text)
        .def_property_readonly("error", [](const RowResult & r) { return decoded(r.error); });
    py::class_<StepResult>(module, "StepResult")
        .def_readonly("status", &StepResult::status)
        .def_readonly("rows", &StepResult::rows);
    module.def("step", step, py::arg("context"), py::arg("batch"), py::arg("rows"), py::arg("pool"),
               "Decode the batch; sample, detokenize and stop-search each (index, sampler, detokenizer).\n\n"
               "Raises ValueError (nothing was changed) and DecodeError. A row's own failure is in its `error`.");
    module.def(
        "score", score, py::arg("context"), py::arg("rows"), py::arg("pool"), ReleaseGil(),
        "Log probabilities of each (index, token, number of likeliest tokens), from the outputs of the last decode.\n\n"
        "The token of a result is -1 where a logit is not a number.");
}

}  // namespace dmr::python
