#include "core/extra_buffers.h"

#include <cstring>

#include "ggml-backend.h"
#include "llama.h"

namespace dmr {
namespace {

bool has_amx() {
    auto * cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (cpu == nullptr) {
        return false;
    }
    auto list = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts"));
    auto * types = list == nullptr ? nullptr : list(cpu);
    for (; types != nullptr && *types != nullptr; ++types) {
        if (std::strcmp(ggml_backend_buft_name(*types), "AMX") == 0) {
            return true;
        }
    }
    return false;
}

}  // namespace

bool is_wrong_on_amx(const char * path) {
    if (!has_amx()) {
        return false;
    }
    auto params       = llama_model_default_params();
    params.vocab_only = true;  // the architecture is known, and nothing is computed
    auto * model      = llama_model_load_from_file(path, params);
    if (model == nullptr) {
        return false;
    }
    const bool has_states = llama_model_is_recurrent(model) || llama_model_is_hybrid(model);
    llama_model_free(model);
    return has_states;
}

}  // namespace dmr
