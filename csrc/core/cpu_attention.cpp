#include "core/cpu_attention.h"

#include "cpu/attention.h"

#if DMR_PORTABLE && defined(__linux__)
#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <string>
#endif

namespace dmr {
namespace {

struct OwnAttention {
    void (*use)(int)     = nullptr;
    int64_t (*num)(void) = nullptr;

    bool exists() const { return use != nullptr && num != nullptr; }
};

#if !DMR_PORTABLE
OwnAttention find() { return {dmr_use_own_attention, dmr_num_own_attentions}; }
#elif defined(__linux__)
int keep_name(dl_phdr_info * info, size_t /*size*/, void * name) {
    if (std::strstr(info->dlpi_name, "libggml-cpu") == nullptr) {
        return 0;
    }
    *static_cast<std::string *>(name) = info->dlpi_name;
    return 1;
}

// ggml has chosen one of several libraries for this CPU and keeps its handle to itself.
OwnAttention find() {
    std::string name;
    dl_iterate_phdr(keep_name, &name);
    void * library = name.empty() ? nullptr : dlopen(name.c_str(), RTLD_NOW | RTLD_NOLOAD);
    if (library == nullptr) {
        return {};
    }
    OwnAttention found;
    found.use = reinterpret_cast<decltype(found.use)>(dlsym(library, "dmr_use_own_attention"));
    found.num = reinterpret_cast<decltype(found.num)>(dlsym(library, "dmr_num_own_attentions"));
    dlclose(library);  // ggml holds it
    return found;
}
#else
OwnAttention find() { return {}; }
#endif

const OwnAttention & own_attention() {
    static const OwnAttention found = find();
    return found;
}

}  // namespace

bool use_own_attention(bool is_used) {
    if (!own_attention().exists()) {
        return false;
    }
    own_attention().use(is_used ? 1 : 0);
    return true;
}

int64_t num_own_attentions() { return own_attention().exists() ? own_attention().num() : 0; }

}  // namespace dmr
