#include "core/build_info.h"

#include <cstring>

#include "core/cpu_kernels.h"
#include "ggml-backend.h"
#include "llama.h"

namespace dmr {
namespace {

std::string compiler_name() {
#if defined(__clang__)
    return std::string("clang ") + __clang_version__;
#elif defined(__GNUC__)
    return std::string("gcc ") + __VERSION__;
#else
    return "unknown";
#endif
}

std::string kind_of(ggml_backend_dev_t device) {
    switch (ggml_backend_dev_type(device)) {
        case GGML_BACKEND_DEVICE_TYPE_CPU:  return "cpu";
        case GGML_BACKEND_DEVICE_TYPE_GPU:  return "gpu";
        case GGML_BACKEND_DEVICE_TYPE_IGPU: return "igpu";
        default:                            return "accelerator";
    }
}

std::vector<std::string> cpu_features() {
    std::vector<std::string> names;
    auto *                   device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (device == nullptr) {
        return names;
    }
    auto * registry = ggml_backend_dev_backend_reg(device);
    auto * get      = reinterpret_cast<ggml_backend_get_features_t>(
        ggml_backend_reg_get_proc_address(registry, "ggml_backend_get_features"));
    if (get == nullptr) {
        return names;
    }
    for (auto * feature = get(registry); feature->name != nullptr; ++feature) {
        if (std::strcmp(feature->value, "0") != 0) {
            names.emplace_back(feature->name);
        }
    }
    return names;
}

}  // namespace

BuildInfo build_info() {
    BuildInfo info;
    info.version           = DMR_VERSION;
    info.flavour           = DMR_FLAVOUR;
    info.compiler          = compiler_name();
    info.llama_cpp_commit  = DMR_LLAMA_CPP_COMMIT;
    info.llama_cpp_version = llama_version();
    for (size_t i = 0; i < ggml_backend_reg_count(); ++i) {
        info.backends.emplace_back(ggml_backend_reg_name(ggml_backend_reg_get(i)));
    }
    info.cpu_features = cpu_features();
    return info;
}

std::vector<Device> devices() {
    std::vector<Device> found;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        auto * device = ggml_backend_dev_get(i);
        size_t free   = 0;
        size_t total  = 0;
        ggml_backend_dev_memory(device, &free, &total);
        found.push_back(
            {ggml_backend_dev_name(device), ggml_backend_dev_description(device), kind_of(device), free, total});
    }
    return found;
}

void load_backends(const std::string & folder) {
    if (std::string(DMR_FLAVOUR) == "portable") {
        ggml_backend_load_all_from_path(folder.c_str());
    }
    llama_backend_init();
    use_own_kernels(true);
}

}  // namespace dmr
