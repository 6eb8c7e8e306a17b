#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"

namespace dmr::cpu {

constexpr int64_t  TILE        = ggml_fa_tile_config::Q;   // rows
constexpr int64_t  CELLS       = ggml_fa_tile_config::KV;  // of a tile
constexpr uint64_t FOUR_UNSEEN = 0xFC00FC00FC00FC00U;      // -inf in half precision, four times
constexpr uint16_t UNSEEN      = 0xFC00U;

// A GGML_OP_FLASH_ATTN_EXT, by the names of what it is made of.
struct Attention {
    const ggml_tensor * q;     // [size of a head, rows, heads]
    const ggml_tensor * k;     // [size of a head, cells, heads of keys]
    const ggml_tensor * v;     // [size of a value, cells, heads of values]
    const ggml_tensor * mask;  // [cells, rows]
    const ggml_tensor * sinks;
    float               scale;
    float               max_bias;
    float               softcap;

    explicit Attention(const ggml_tensor * op)
        : q(op->src[0]), k(op->src[1]), v(op->src[2]), mask(op->src[3]), sinks(op->src[4]) {
        std::memcpy(&scale, op->op_params, sizeof(float));
        std::memcpy(&max_bias, op->op_params + 1, sizeof(float));
        std::memcpy(&softcap, op->op_params + 2, sizeof(float));
    }

    const ggml_fp16_t * mask_of(int64_t row) const {
        return reinterpret_cast<const ggml_fp16_t *>(static_cast<const char *>(mask->data) + row * mask->nb[1]);
    }

    // Of `tensor`, what belongs to a head of queries: several of them share a head of keys and values.
    const char * head_of(const ggml_tensor * tensor, int64_t head) const {
        return static_cast<const char *>(tensor->data) + head / (num_heads() / tensor->ne[2]) * tensor->nb[2];
    }

    int64_t num_rows() const { return q->ne[1]; }
    int64_t num_heads() const { return q->ne[2]; }

    // One mask for all heads, and one memory for all sequences.
    bool is_plain() const {
        return q->type == GGML_TYPE_F32 && q->ne[3] == 1 && k->ne[3] == 1 && v->ne[3] == 1 && mask != nullptr &&
               mask->type == GGML_TYPE_F16 && mask->ne[2] == 1 && mask->ne[3] == 1 && max_bias == 0.0F;
    }

    // Where ggml takes tiles.
    bool is_tiled() const {
        const bool is_float = k->type == GGML_TYPE_F16 || k->type == GGML_TYPE_F32;
        return is_float && k->type == v->type && num_rows() >= TILE;
    }
};

// Both to the last bit as ggml does it. All threads of the graph call them.
void attend_by_rows(const ggml_compute_params * params, const Attention & what, ggml_tensor * dst);
void attend_by_tiles(const ggml_compute_params * params, const Attention & what, ggml_tensor * dst);

}  // namespace dmr::cpu
