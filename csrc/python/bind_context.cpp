#include <algorithm>
#include <optional>

#include "python/handles.h"

namespace dmr::python {
namespace {

using FloatArray = py::array_t<float>;

std::unique_ptr<ContextHandle> make_context(const ModelHandle & model, const ContextOptions & options) {
    auto                   shared = model.shared();
    const ContextOptions   mine   = options;  // nobody else can change them meanwhile
    py::gil_scoped_release released;
    return std::make_unique<ContextHandle>(std::make_shared<Context>(std::move(shared), mine));
}

// The rows live in the context's own buffer, so they are copied before anybody else can decode.
template <typename GetRow, typename GetLength>
FloatArray copied_row(ContextHandle & handle, GetRow get_row, GetLength get_length) {
    std::vector<float> row;
    {
        py::gil_scoped_release released;
        handle.alone([&](Context & context) {
            const float * data = get_row(context);
            row.assign(data, data + get_length(context));
        });
    }
    return FloatArray(static_cast<py::ssize_t>(row.size()), row.data());
}

FloatArray logits(ContextHandle & handle, int32_t index) {
    return copied_row(
        handle, [&](Context & c) { return c.logits(index); }, [](Context & c) { return c.model()->num_vocabulary(); });
}

FloatArray embedding(ContextHandle & handle, int32_t index) {
    return copied_row(
        handle, [&](Context & c) { return c.embedding(index); },
        [](Context & c) { return c.model()->vector_length(); });
}

FloatArray sequence_embedding(ContextHandle & handle, SequenceId sequence) {
    return copied_row(
        handle, [&](Context & c) { return c.sequence_embedding(sequence); },
        [](Context & c) { return c.sequence_embedding_length(); });
}

py::bytes save(ContextHandle & handle, SequenceId sequence) {
    std::string state;
    {
        py::gil_scoped_release released;
        state = handle.alone([&](Context & c) { return c.save(sequence); });
    }
    return py::bytes(state);
}

// Wraps a method of Context so that it runs alone.
template <typename Result, typename... Args> auto alone(Result (Context::*method)(Args...)) {
    return [method](ContextHandle & handle, Args... args) {
        return handle.alone([&](Context & context) { return (context.*method)(args...); });
    };
}
template <typename Result, typename... Args> auto alone(Result (Context::*method)(Args...) const) {
    return [method](ContextHandle & handle, Args... args) {
        return handle.alone([&](Context & context) { return (context.*method)(args...); });
    };
}
template <typename Result> auto fixed(Result (Context::*method)() const) {
    return [method](const ContextHandle & handle) { return ((*handle.shared()).*method)(); };
}

void register_batch(py::module_ & module) {
    py::class_<Batch>(module, "Batch", "The tokens of one decode, of any mix of sequences.")
        .def(py::init<>())
        .def("add", &Batch::add, py::arg("sequence"), py::arg("tokens"), py::arg("first_position"),
             py::arg("output_all") = false, py::arg("output_last") = true, py::arg("drafts") = std::vector<Token>(),
             "Append consecutive tokens of one sequence, and guesses at what follows; returns the index of the last\n"
             "certain one.")
        .def("clear", &Batch::clear)
        .def("__len__", &Batch::size);
}

void register_options(py::module_ & module) {
    py::class_<RopeOptions>(module, "RopeOptions",
                            "Positions in the rotary embedding; see csrc/core/context_options.h.")
        .def(py::init<>())
        .def_readwrite("scaling", &RopeOptions::scaling)
        .def_readwrite("freq_base", &RopeOptions::freq_base)
        .def_readwrite("freq_scale", &RopeOptions::freq_scale)
        .def_readwrite("yarn_orig_ctx", &RopeOptions::yarn_orig_ctx)
        .def_readwrite("yarn_ext_factor", &RopeOptions::yarn_ext_factor)
        .def_readwrite("yarn_attn_factor", &RopeOptions::yarn_attn_factor)
        .def_readwrite("yarn_beta_fast", &RopeOptions::yarn_beta_fast)
        .def_readwrite("yarn_beta_slow", &RopeOptions::yarn_beta_slow);
    py::class_<ContextOptions>(module, "ContextOptions", "How a context is made; see csrc/core/context_options.h.")
        .def(py::init<>())
        .def_readwrite("context_size", &ContextOptions::context_size)
        .def_readwrite("max_batch", &ContextOptions::max_batch)
        .def_readwrite("max_sequences", &ContextOptions::max_sequences)
        .def_readwrite("max_outputs", &ContextOptions::max_outputs)
        .def_readwrite("unified", &ContextOptions::unified)
        .def_readwrite("embeddings", &ContextOptions::embeddings)
        .def_readwrite("pooling", &ContextOptions::pooling)
        .def_readwrite("flash_attention", &ContextOptions::flash_attention)
        .def_readwrite("key_type", &ContextOptions::key_type)
        .def_readwrite("value_type", &ContextOptions::value_type)
        .def_readwrite("offload_cells", &ContextOptions::offload_cells)
        .def_readwrite("offload_operations", &ContextOptions::offload_operations)
        .def_readwrite("num_threads", &ContextOptions::num_threads)
        .def_readwrite("num_batch_threads", &ContextOptions::num_batch_threads)
        .def_readwrite("thread_polling", &ContextOptions::thread_polling)
        .def_readwrite("rope", &ContextOptions::rope);
}

}  // namespace

void register_context(py::module_ & module) {
    register_batch(module);
    register_options(module);
    py::enum_<DecodeStatus>(module, "DecodeStatus")
        .value("DONE", DecodeStatus::done)
        .value("NO_ROOM", DecodeStatus::no_room)
        .value("ABORTED", DecodeStatus::aborted);
    py::class_<ContextCounters>(module, "ContextCounters")
        .def_readonly("num_decodes", &ContextCounters::num_decodes)
        .def_readonly("num_tokens", &ContextCounters::num_tokens)
        .def_readonly("num_reused_graphs", &ContextCounters::num_reused_graphs);
    py::class_<ContextHandle>(module, "Context", "KV memory and compute buffers over a model.")
        .def(py::init(&make_context), py::arg("model"), py::arg("options"), "Raises LoadError, ValueError.")
        .def("close", &ContextHandle::close, ReleaseGil())
        .def_property_readonly("context_size", fixed(&Context::context_size))
        .def_property_readonly("sequence_context_size", fixed(&Context::sequence_context_size))
        .def_property_readonly("max_batch", fixed(&Context::max_batch))
        .def_property_readonly("max_sequences", fixed(&Context::max_sequences))
        .def_property_readonly("max_outputs", fixed(&Context::max_outputs))
        .def_property_readonly("has_memory", fixed(&Context::has_memory))
        .def_property_readonly("can_shift", fixed(&Context::can_shift))
        .def_property_readonly("can_truncate", fixed(&Context::can_truncate))
        .def(
            "decode_media",
            [](ContextHandle & h, SequenceId sequence, int32_t first_position, const MediaPiece & piece,
               const std::shared_ptr<MediaVectors> & vectors, int32_t begin, int32_t end) {
                const MediaPiece       mine = piece;
                py::gil_scoped_release released;
                return h.alone([&](Context & c) {
                    return c.decode_media({sequence, first_position, &mine, vectors.get(), begin, end});
                });
            },
            py::arg("sequence"), py::arg("first_position"), py::arg("piece"), py::arg("vectors"), py::arg("begin"),
            py::arg("end"),
            "Compute places [begin, end) of a piece whose first one is at `first_position`, without an output.")
        .def(
            "decode",
            [](ContextHandle & h, const Batch & batch) {
                const Batch            mine = batch;  // nobody else can change it meanwhile
                py::gil_scoped_release released;
                return h.alone([&](Context & c) { return c.decode(mine); });
            },
            py::arg("batch"), "Run the batch. Raises ValueError (nothing was changed) and DecodeError.")
        .def("logits", logits, py::arg("index"), "float32 [num_vocabulary] of a place of the last batch.")
        .def("embedding", embedding, py::arg("index"), "float32 [vector_length] (pooling none).")
        .def("sequence_embedding", sequence_embedding, py::arg("sequence"), "float32 vector of a pooled sequence.")
        .def("remove", alone(&Context::remove), py::arg("sequence"), py::arg("begin") = 0, py::arg("end") = -1,
             ReleaseGil())
        .def("copy", alone(&Context::copy), py::arg("source"), py::arg("target"), py::arg("begin") = 0,
             py::arg("end") = -1, ReleaseGil())
        .def("keep", alone(&Context::keep), py::arg("sequence"), ReleaseGil())
        .def("shift", alone(&Context::shift), py::arg("sequence"), py::arg("begin"), py::arg("end"), py::arg("delta"),
             ReleaseGil())
        .def("clear", alone(&Context::clear), ReleaseGil())
        .def("position_min", alone(&Context::position_min), py::arg("sequence"), ReleaseGil())
        .def("position_max", alone(&Context::position_max), py::arg("sequence"), ReleaseGil())
        .def("save", save, py::arg("sequence"), "The sequence's state as bytes.")
        .def(
            "restore",
            [](ContextHandle & h, SequenceId sequence, const std::string & state) {
                return h.alone([&](Context & c) { return c.restore(sequence, state); });
            },
            py::arg("sequence"), py::arg("state"), ReleaseGil(),
            "Put a saved state into a sequence; False = no room. Raises ValueError for foreign or damaged bytes.")
        .def("set_threads", alone(&Context::set_threads), py::arg("num_threads"), ReleaseGil())
        .def_property_readonly("next_decode", fixed(&Context::next_decode))
        .def(
            "abort",
            [](const ContextHandle & h, std::optional<int64_t> decode) {
                const auto context = h.shared();
                decode ? context->abort(*decode) : context->abort_running();
            },
            py::arg("decode") = py::none(), "Stop the decode with this number, or the one that runs now; any thread.")
        .def_property_readonly("counters", [](ContextHandle & h) {
            py::gil_scoped_release released;
            return h.alone([](Context & c) { return c.counters(); });
        });
}

}  // namespace dmr::python
