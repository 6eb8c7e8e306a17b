#include "core/errors.h"
#include "python/module.h"

namespace dmr::python {

// std::invalid_argument is ValueError by pybind11's own rule.
void register_errors(py::module_ & module) {
    const auto base = py::register_exception<Error>(module, "Error", PyExc_RuntimeError);
    py::register_exception<LoadError>(module, "LoadError", base);
    py::register_exception<Cancelled>(module, "Cancelled", base);
    py::register_exception<DecodeError>(module, "DecodeError", base);
    py::register_exception<GrammarError>(module, "GrammarError", base);
    py::register_exception<TemplateError>(module, "TemplateError", base);
}

}  // namespace dmr::python
