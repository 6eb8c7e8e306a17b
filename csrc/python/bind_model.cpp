#include "python/handles.h"

namespace dmr::python {
namespace {

// Calls a Python progress function from the loading thread; its exception stops the load and is raised afterwards.
class PythonProgress {
  public:
    explicit PythonProgress(const py::object & function) : function_(function) {}

    bool operator()(float fraction) {
        py::gil_scoped_acquire acquired;
        try {
            const py::object answer = function_(fraction);
            return answer.is_none() || answer.cast<bool>();
        } catch (const std::exception &) {
            raised_ = std::current_exception();
            return false;
        }
    }

    void rethrow() const {
        if (raised_) {
            std::rethrow_exception(raised_);
        }
    }

  private:
    const py::object & function_;
    std::exception_ptr raised_;
};

std::unique_ptr<ModelHandle> load_model(const std::vector<std::string> & paths, int32_t num_gpu_layers, bool use_mmap,
                                        bool use_mlock, bool use_direct_io, bool check_tensors, bool vocab_only,
                                        bool repack, bool use_host_buffers, const std::string & split_mode,
                                        int32_t main_gpu, const std::vector<float> & tensor_split,
                                        const std::vector<std::string> & devices, int32_t num_cpu_expert_layers,
                                        const py::object & progress) {
    const ModelOptions     options{num_gpu_layers,       use_mmap,   use_mlock,    use_direct_io,
                                   check_tensors,        vocab_only, repack,       use_host_buffers,
                                   split_mode,           main_gpu,   tensor_split, devices,
                                   num_cpu_expert_layers};
    PythonProgress         python_progress(progress);
    std::shared_ptr<Model> model;
    try {
        py::gil_scoped_release released;
        Model::Progress        report;
        if (!progress.is_none()) {
            report = [&](float fraction) { return python_progress(fraction); };
        }
        model = Model::load(paths, options, report);
    } catch (const Cancelled &) {
        python_progress.rethrow();
        throw;
    }
    return std::make_unique<ModelHandle>(std::move(model));
}

template <typename Result> auto getter(Result (Model::*method)() const) {
    return [method](const ModelHandle & handle) { return ((*handle.shared()).*method)(); };
}

py::dict metadata(const ModelHandle & handle) {
    py::dict dict;
    for (const auto & [key, value] : handle.shared()->metadata()) {
        dict[decoded(key)] = decoded(value);
    }
    return dict;
}

std::vector<py::str> control_tokens(const ModelHandle & handle) {
    std::vector<py::str> texts;
    for (const auto & text : handle.shared()->control_tokens()) {
        texts.push_back(decoded(text));
    }
    return texts;
}

}  // namespace

void register_model(py::module_ & module) {
    py::class_<ModelHandle>(module, "Model", "Weights and vocabulary of a GGUF model.")
        .def(py::init(&load_model), py::arg("paths"), py::kw_only(), py::arg("num_gpu_layers") = all_layers,
             py::arg("use_mmap") = true, py::arg("use_mlock") = false, py::arg("use_direct_io") = false,
             py::arg("check_tensors") = false, py::arg("vocab_only") = false, py::arg("repack") = true,
             py::arg("use_host_buffers") = true, py::arg("split_mode") = "layer", py::arg("main_gpu") = 0,
             py::arg_v("tensor_split", std::vector<float>(), "()"),
             py::arg_v("devices", std::vector<std::string>(), "()"), py::arg("num_cpu_expert_layers") = 0,
             py::arg("progress") = py::none(),
             "Load one file, or all shards in order; where to, see csrc/core/model_options.h.\n"
             "`progress(fraction)` may return False to cancel.\n\n"
             "Raises LoadError, Cancelled, ValueError.")
        .def("close", &ModelHandle::close, ReleaseGil(), "Give the model up; contexts made from it keep it alive.")
        .def_property_readonly("description", [](const ModelHandle & h) { return decoded(h.shared()->description()); })
        .def_property_readonly("metadata", metadata)
        .def_property_readonly("chat_template",
                               [](const ModelHandle & h) { return decoded(h.shared()->chat_template()); })
        .def_property_readonly("size_bytes", getter(&Model::size_bytes))
        .def_property_readonly("num_parameters", getter(&Model::num_parameters))
        .def_property_readonly("context_length", getter(&Model::context_length))
        .def_property_readonly("embedding_length", getter(&Model::embedding_length))
        .def_property_readonly("vector_length", getter(&Model::vector_length))
        .def_property_readonly("num_layers", getter(&Model::num_layers))
        .def_property_readonly("num_vocabulary", getter(&Model::num_vocabulary))
        .def_property_readonly("has_encoder", getter(&Model::has_encoder))
        .def_property_readonly("has_decoder", getter(&Model::has_decoder))
        .def_property_readonly("has_classifier", getter(&Model::has_classifier))
        .def_property_readonly("is_recurrent", getter(&Model::is_recurrent))
        .def_property_readonly("is_hybrid", getter(&Model::is_hybrid))
        .def_property_readonly("sliding_window", getter(&Model::sliding_window))
        .def_property_readonly("adds_bos", getter(&Model::adds_bos))
        .def_property_readonly("adds_eos", getter(&Model::adds_eos))
        .def_property_readonly("adds_separator", getter(&Model::adds_separator))
        .def_property_readonly("bos", getter(&Model::bos))
        .def_property_readonly("eos", getter(&Model::eos))
        .def_property_readonly("eot", getter(&Model::eot))
        .def_property_readonly("separator", getter(&Model::separator))
        .def_property_readonly("fim_prefix", getter(&Model::fim_prefix))
        .def_property_readonly("fim_suffix", getter(&Model::fim_suffix))
        .def_property_readonly("fim_middle", getter(&Model::fim_middle))
        .def_property_readonly("fim_repository", getter(&Model::fim_repository))
        .def_property_readonly("fim_separator", getter(&Model::fim_separator))
        .def_property_readonly("control_tokens", control_tokens)
        .def_property_readonly("end_tokens", [](const ModelHandle & h) { return h.shared()->end_tokens(); })
        .def(
            "is_end", [](const ModelHandle & h, Token token) { return h.shared()->is_end(token); }, py::arg("token"))
        .def(
            "is_control", [](const ModelHandle & h, Token token) { return h.shared()->is_control(token); },
            py::arg("token"))
        .def(
            "tokenize",
            [](const ModelHandle & h, const std::string & text, bool add_special, bool parse_special) {
                return h.shared()->tokenize(text, add_special, parse_special);
            },
            py::arg("text"), py::arg("add_special") = true, py::arg("parse_special") = true, ReleaseGil())
        .def(
            "piece",
            [](const ModelHandle & h, Token token, bool special) {
                return py::bytes(h.shared()->piece(token, special));
            },
            py::arg("token"), py::arg("special") = false)
        .def(
            "detokenize",
            [](const ModelHandle & h, const std::vector<Token> & tokens, bool remove_special, bool special) {
                return py::bytes(h.shared()->detokenize(tokens, remove_special, special));
            },
            py::arg("tokens"), py::arg("remove_special") = false, py::arg("special") = false);
}

}  // namespace dmr::python
