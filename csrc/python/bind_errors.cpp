#include <array>
#include <exception>

#include "core/errors.h"
#include "python/module.h"

namespace dmr::python {
namespace {

// The Python types, from the most general to the most special. The module keeps them alive.
struct ErrorTypes {
    py::handle error;
    py::handle load;
    py::handle cancelled;
    py::handle decode;
    py::handle grammar;
    py::handle chat_template;
    py::handle media;
};

ErrorTypes & types() {
    static ErrorTypes instance;
    return instance;
}

void set_error(py::handle type, const std::exception & error) {
    PyErr_SetObject(type.ptr(), decoded(error.what()).ptr());
}

// pybind11's own translation fails on a message that is not UTF-8.
void translate(std::exception_ptr pointer) {
    if (!pointer) {
        return;
    }
    try {
        std::rethrow_exception(pointer);
    } catch (const LoadError & error) {
        set_error(types().load, error);
    } catch (const Cancelled & error) {
        set_error(types().cancelled, error);
    } catch (const DecodeError & error) {
        set_error(types().decode, error);
    } catch (const GrammarError & error) {
        set_error(types().grammar, error);
    } catch (const TemplateError & error) {
        set_error(types().chat_template, error);
    } catch (const MediaError & error) {
        set_error(types().media, error);
    } catch (const Error & error) {
        set_error(types().error, error);
    } catch (const std::invalid_argument & error) {
        set_error(PyExc_ValueError, error);
    } catch (const py::cast_error & error) {
        set_error(PyExc_TypeError, error);
    }
}

}  // namespace

void register_errors(py::module_ & module) {
    types().error         = py::exception<Error>(module, "Error", PyExc_RuntimeError);
    types().load          = py::exception<LoadError>(module, "LoadError", types().error);
    types().cancelled     = py::exception<Cancelled>(module, "Cancelled", types().error);
    types().decode        = py::exception<DecodeError>(module, "DecodeError", types().error);
    types().grammar       = py::exception<GrammarError>(module, "GrammarError", types().error);
    types().chat_template = py::exception<TemplateError>(module, "TemplateError", types().error);
    types().media         = py::exception<MediaError>(module, "MediaError", types().error);
    py::register_exception_translator(translate);
}

}  // namespace dmr::python
