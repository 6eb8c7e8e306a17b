#include "python/module.h"

#include <dlfcn.h>

#include <string>

#include "core/build_info.h"
#include "core/log_queue.h"

namespace dmr::python {
namespace {

// The folder this library was loaded from: the portable flavour's back ends lie beside it.
std::string own_folder() {
    Dl_info info{};
    if (dladdr(reinterpret_cast<void *>(&own_folder), &info) == 0 || info.dli_fname == nullptr) {
        return ".";
    }
    const std::string path = info.dli_fname;
    const auto        cut  = path.rfind('/');
    return cut == std::string::npos ? "." : path.substr(0, cut);
}

}  // namespace

PYBIND11_MODULE(_core, module) {
    module.doc() = "llama.cpp for dmr: models, contexts, samplers, chat templates. See _core.pyi.";
    capture_logs();
    load_backends(own_folder());
    register_errors(module);
    register_build_info(module);
    register_model(module);
    register_projector(module);
    register_context(module);
    register_sampler(module);
    register_detokenizer(module);
    register_chat(module);
    register_step(module);
    register_quantize(module);
}

}  // namespace dmr::python
