#include "core/cpu_kernels.h"

#include "cpu/kernels.h"

#if DMR_PORTABLE && defined(__linux__)
#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <string>
#endif

namespace dmr {
namespace {

struct OwnKernels {
    void (*use)(int)                                     = nullptr;
    int64_t (*num)(void)                                 = nullptr;
    int (*multiply_floats)(const ggml_threadpool *, int) = nullptr;

    bool exists() const { return use != nullptr && num != nullptr && multiply_floats != nullptr; }
};

#if !DMR_PORTABLE
OwnKernels find() { return {dmr_use_own_kernels, dmr_num_own_operations, dmr_multiply_floats}; }
#elif defined(__linux__)
int keep_name(dl_phdr_info * info, size_t /*size*/, void * name) {
    if (std::strstr(info->dlpi_name, "libggml-cpu") == nullptr) {
        return 0;
    }
    *static_cast<std::string *>(name) = info->dlpi_name;
    return 1;
}

// ggml has chosen one of several libraries for this CPU and keeps its handle to itself.
OwnKernels find() {
    std::string name;
    dl_iterate_phdr(keep_name, &name);
    void * library = name.empty() ? nullptr : dlopen(name.c_str(), RTLD_NOW | RTLD_NOLOAD);
    if (library == nullptr) {
        return {};
    }
    OwnKernels found;
    found.use             = reinterpret_cast<decltype(found.use)>(dlsym(library, "dmr_use_own_kernels"));
    found.num             = reinterpret_cast<decltype(found.num)>(dlsym(library, "dmr_num_own_operations"));
    found.multiply_floats = reinterpret_cast<decltype(found.multiply_floats)>(dlsym(library, "dmr_multiply_floats"));
    dlclose(library);  // ggml holds it
    return found;
}
#else
OwnKernels find() { return {}; }
#endif

const OwnKernels & own_kernels() {
    static const OwnKernels found = find();
    return found;
}

}  // namespace

bool use_own_kernels(bool is_used) {
    if (!own_kernels().exists()) {
        return false;
    }
    own_kernels().use(is_used ? 1 : 0);
    return true;
}

void multiply_floats(const ggml_threadpool * threads, bool is_wanted) {
    if (own_kernels().exists()) {
        own_kernels().multiply_floats(threads, is_wanted ? 1 : 0);
    }
}

int64_t num_own_operations() { return own_kernels().exists() ? own_kernels().num() : 0; }

}  // namespace dmr
