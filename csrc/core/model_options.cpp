#include "core/model_options.h"

#include <algorithm>
#include <cmath>
#include <list>
#include <map>

#include "core/errors.h"
#include "ggml-backend.h"
#include "llama.h"

namespace dmr {
namespace {

// The tensors of experts, as llama.cpp names them.
constexpr const char * experts = "\\.ffn_(up|down|gate|gate_up)_(ch|)exps";

llama_load_mode load_mode_of(const ModelOptions & options) {
    if (options.use_direct_io) {
        require(!options.use_mlock, "use_direct_io and use_mlock exclude each other");
        return LLAMA_LOAD_MODE_DIRECT_IO;
    }
    if (options.use_mmap) {
        return options.use_mlock ? LLAMA_LOAD_MODE_MMAP_MLOCK : LLAMA_LOAD_MODE_MMAP;
    }
    return options.use_mlock ? LLAMA_LOAD_MODE_MLOCK : LLAMA_LOAD_MODE_NONE;
}

llama_split_mode split_mode_of(const std::string & name) {
    static const std::map<std::string, llama_split_mode> modes = {
        {"none", LLAMA_SPLIT_MODE_NONE},
        {"layer", LLAMA_SPLIT_MODE_LAYER},
        {"row", LLAMA_SPLIT_MODE_ROW},
        {"tensor", LLAMA_SPLIT_MODE_TENSOR},
    };
    const auto found = modes.find(name);
    require(found != modes.end(), "split_mode is none, layer, row or tensor, not " + name);
    return found->second;
}

bool is_offload_device(ggml_backend_dev_t device) {
    const auto type = ggml_backend_dev_type(device);
    return type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU;
}

ggml_backend_dev_t device_of(const std::string & name) {
    auto * found = ggml_backend_dev_by_name(name.c_str());
    if (found != nullptr && is_offload_device(found)) {
        return found;
    }
    std::string known;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        auto * device = ggml_backend_dev_get(i);
        if (is_offload_device(device)) {
            known += std::string(known.empty() ? "" : ", ") + ggml_backend_dev_name(device);
        }
    }
    throw std::invalid_argument("there is no device named " + name + "; " +
                                (known.empty() ? "this machine has none but its CPU" : "there are: " + known));
}

}  // namespace

struct ModelParams::Storage {
    llama_model_params                            params = llama_model_default_params();
    std::vector<ggml_backend_dev_t>               devices;
    std::vector<float>                            split;
    std::list<std::string>                        patterns;
    std::vector<llama_model_tensor_buft_override> overrides;
};

ModelParams::ModelParams(const ModelOptions & options) : storage_(std::make_unique<Storage>()) {
    auto & params          = storage_->params;
    params.n_gpu_layers    = options.num_gpu_layers;
    params.load_mode       = load_mode_of(options);
    params.check_tensors   = options.check_tensors;
    params.vocab_only      = options.vocab_only;
    params.use_extra_bufts = options.repack;
    params.no_host         = !options.use_host_buffers;
    params.split_mode      = split_mode_of(options.split_mode);
    params.main_gpu        = options.main_gpu;
    if (!options.tensor_split.empty()) {
        require(options.tensor_split.size() <= llama_max_devices(),
                "tensor_split has more than " + std::to_string(llama_max_devices()) + " shares");
        require(std::all_of(options.tensor_split.begin(), options.tensor_split.end(),
                            [](float share) { return std::isfinite(share) && share >= 0; }),
                "a share of tensor_split is negative or no number");
        storage_->split = options.tensor_split;
        storage_->split.resize(llama_max_devices());
        params.tensor_split = storage_->split.data();
    }
    if (!options.devices.empty()) {
        for (const auto & name : options.devices) {
            if (name != "none") {
                storage_->devices.push_back(device_of(name));
            }
        }
        require(storage_->devices.empty() || storage_->devices.size() == options.devices.size(),
                "the device none stands alone");
        storage_->devices.push_back(nullptr);
        params.devices = storage_->devices.data();
    }
    require(options.num_cpu_expert_layers >= all_layers && options.num_cpu_expert_layers <= 4096,
            "num_cpu_expert_layers is out of range");
    auto * cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (options.num_cpu_expert_layers != 0 && cpu != nullptr) {
        auto * memory = ggml_backend_dev_buffer_type(cpu);
        for (int32_t layer = 0; layer < options.num_cpu_expert_layers; ++layer) {
            storage_->patterns.push_back("blk\\." + std::to_string(layer) + experts);
        }
        if (options.num_cpu_expert_layers == all_layers) {
            storage_->patterns.emplace_back(experts);
        }
        for (const auto & pattern : storage_->patterns) {
            storage_->overrides.push_back({pattern.c_str(), memory});
        }
        storage_->overrides.push_back({nullptr, nullptr});
        params.tensor_buft_overrides = storage_->overrides.data();
    }
}

ModelParams::~ModelParams() = default;

llama_model_params & ModelParams::get() { return storage_->params; }

}  // namespace dmr
