// What this build is and what it found: the first line of every bug report.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dmr {

struct Device {
    std::string name;
    std::string description;
    std::string kind;  // "cpu", "gpu", "igpu", "accelerator"
    uint64_t    free_bytes;
    uint64_t    total_bytes;
};

struct BuildInfo {
    std::string              version;
    std::string              flavour;  // "native" or "portable"
    std::string              compiler;
    std::string              llama_cpp_commit;
    std::string              llama_cpp_version;
    std::vector<std::string> backends;
    std::vector<std::string> cpu_features;
};

BuildInfo           build_info();
std::vector<Device> devices();

// Loads ggml's back ends (the portable flavour keeps them as files in `folder`) and prepares llama.cpp. Call once.
void load_backends(const std::string & folder);

}  // namespace dmr
