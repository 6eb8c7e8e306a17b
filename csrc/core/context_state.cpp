// States of sequences as bytes: saved from a context, and restored into one with the same model and layout.
#include <cstring>

#include "core/context.h"
#include "core/errors.h"
#include "llama.h"

namespace dmr {
namespace {

// What `save` puts before llama.cpp's bytes, so that `restore` never hands it foreign or damaged ones.
struct StateHeader {
    char     magic[8];
    uint64_t layout;
    uint64_t length;
    uint64_t checksum;
};
constexpr char state_magic[8] = {'d', 'm', 'r', 's', 'e', 'q', '0', '1'};

uint64_t mix(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
    return hash ^ (hash >> 29);
}

// Finds damage, not malice: states are written and read by this process only.
uint64_t checksum_of(const char * data, size_t size) {
    uint64_t hash = size;
    uint64_t word = 0;
    for (; size >= sizeof(word); data += sizeof(word), size -= sizeof(word)) {
        std::memcpy(&word, data, sizeof(word));
        hash = mix(hash, word);
    }
    word = 0;
    std::memcpy(&word, data, size);
    return mix(hash, word);
}

}  // namespace

std::string Context::save(SequenceId sequence) const {
    require_sequence(sequence);
    const size_t size = llama_state_seq_get_size(handle_, sequence);
    std::string  state(sizeof(StateHeader) + size, '\0');
    auto *       payload = state.data() + sizeof(StateHeader);
    const size_t written = llama_state_seq_get_data(handle_, reinterpret_cast<uint8_t *>(payload), size, sequence);
    if (written == 0 && size != 0) {
        throw Error("the state could not be read");
    }
    state.resize(sizeof(StateHeader) + written);
    StateHeader header{};
    std::memcpy(header.magic, state_magic, sizeof(state_magic));
    header.layout   = layout_fingerprint();
    header.length   = written;
    header.checksum = checksum_of(state.data() + sizeof(StateHeader), written);
    std::memcpy(state.data(), &header, sizeof(header));
    return state;
}

bool Context::restore(SequenceId sequence, const std::string & state) {
    require_sequence(sequence);
    StateHeader header{};
    require(state.size() >= sizeof(header), "this is not a saved state");
    std::memcpy(&header, state.data(), sizeof(header));
    require(std::memcmp(header.magic, state_magic, sizeof(state_magic)) == 0, "this is not a saved state");
    require(header.layout == layout_fingerprint(), "the state was saved from another model or layout");
    const char * payload = state.data() + sizeof(header);
    require(header.length == state.size() - sizeof(header), "the state is cut short");
    require(header.checksum == checksum_of(payload, header.length), "the state is damaged");
    auto * memory = llama_get_memory(handle_);
    llama_memory_seq_rm(memory, sequence, -1, -1);
    if (llama_state_seq_set_data(handle_, reinterpret_cast<const uint8_t *>(payload), header.length, sequence) == 0) {
        llama_memory_seq_rm(memory, sequence, -1, -1);
        return false;
    }
    return true;
}

uint64_t Context::layout_fingerprint() const {
    const std::string types = options_.key_type + "/" + options_.value_type;
    uint64_t          hash  = checksum_of(types.data(), types.size());
    for (const uint64_t value :
         {model_->size_bytes(), model_->num_parameters(), static_cast<uint64_t>(model_->num_layers()),
          static_cast<uint64_t>(model_->num_vocabulary()), static_cast<uint64_t>(options_.unified),
          // Without it, values are stored transposed.
          static_cast<uint64_t>(options_.flash_attention == "off")}) {
        hash = mix(hash, value);
    }
    return hash;
}

}  // namespace dmr
