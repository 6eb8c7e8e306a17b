// How a model's weights are loaded and where they are put.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

struct llama_model_params;

namespace dmr {

constexpr int32_t all_layers = -1;

struct ModelOptions {
    int32_t                  num_gpu_layers   = all_layers;
    bool                     use_mmap         = true;
    bool                     use_mlock        = false;
    bool                     use_direct_io    = false;  // read past the page cache, without mmap or mlock
    bool                     check_tensors    = false;  // validate the weights' bytes while loading
    bool                     vocab_only       = false;  // tokenizer and metadata, no weights
    bool                     repack           = true;   // weights in an order that the CPU computes faster, where known
    bool                     use_host_buffers = true;  // memory that a device reads faster, for what stays with the CPU
    std::string              split_mode       = "layer";  // over several devices: "none", "layer", "row", "tensor"
    int32_t                  main_gpu         = 0;        // the one of "none"
    std::vector<float>       tensor_split;                // shares of the devices; empty = by their free memory
    std::vector<std::string> devices;                     // by name; empty = all, "none" = the CPU alone
    int32_t                  num_cpu_expert_layers = 0;   // the first so many keep their experts with the CPU
};

// llama.cpp's parameters, and what they point to.
class ModelParams {
  public:
    // Throws std::invalid_argument, naming the devices that there are where one is unknown.
    explicit ModelParams(const ModelOptions & options);
    ~ModelParams();
    ModelParams(const ModelParams &)             = delete;
    ModelParams & operator=(const ModelParams &) = delete;

    llama_model_params & get();

  private:
    struct Storage;
    std::unique_ptr<Storage> storage_;
};

}  // namespace dmr
