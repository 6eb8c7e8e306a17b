#include "python/handles.h"

namespace dmr::python {
namespace {

std::unique_ptr<DetokenizerHandle> make_detokenizer(const ModelHandle & model, std::vector<std::string> stop,
                                                    std::vector<std::string> preserved_tokens, bool special) {
    DetokenizerOptions options{std::move(stop), std::move(preserved_tokens), special};
    return std::make_unique<DetokenizerHandle>(std::make_shared<Detokenizer>(model.shared(), std::move(options)));
}

}  // namespace

void register_detokenizer(py::module_ & module) {
    py::class_<DetokenizerHandle>(module, "Detokenizer", "Tokens to text: whole characters, and no stop string.")
        .def(py::init(&make_detokenizer), py::arg("model"), py::kw_only(), py::arg("stop") = std::vector<std::string>(),
             py::arg("preserved_tokens") = std::vector<std::string>(), py::arg("special") = false)
        .def(
            "push",
            [](DetokenizerHandle & h, Token token) { return h.alone([&](Detokenizer & d) { return d.push(token); }); },
            py::arg("token"), ReleaseGil(), "The text that became certain through this token.")
        .def(
            "flush", [](DetokenizerHandle & h) { return h.alone([](Detokenizer & d) { return d.flush(); }); },
            ReleaseGil(), "What was held back.")
        .def(
            "piece", [](const DetokenizerHandle & h, Token token) { return py::bytes(h.shared()->piece(token)); },
            py::arg("token"))
        .def_property_readonly("stopped_by", [](DetokenizerHandle & h) {
            py::gil_scoped_release released;
            return h.alone([](Detokenizer & d) { return d.stopped_by(); });
        });
    module.def(
        "valid_utf8", [](const py::bytes & data) { return valid_utf8(std::string(data)); }, py::arg("data"),
        "Text with U+FFFD for every maximal ill-formed run.");
}

}  // namespace dmr::python
