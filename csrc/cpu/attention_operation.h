#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "common.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"

namespace dmr::cpu {

constexpr int64_t TILE  = ggml_fa_tile_config::Q;   // rows
constexpr int64_t CELLS = ggml_fa_tile_config::KV;  // of a tile

// A GGML_OP_FLASH_ATTN_EXT, by the names of what it is made of.
struct Attention {
    const ggml_tensor * q;     // [size of a head, rows, heads]
    const ggml_tensor * k;     // [size of a head, cells, heads of keys]
    const ggml_tensor * v;     // [size of a value, cells, heads of values]
    const ggml_tensor * mask;  // [cells, rows]
    const ggml_tensor * sinks;
    ggml_tensor *       result;  // [size of a value, heads, rows]
    float               scale;   // of a product, before `softcap`
    float               max_bias;
    float               softcap;

    explicit Attention(ggml_tensor * op)
        : q(op->src[0]), k(op->src[1]), v(op->src[2]), mask(op->src[3]), sinks(op->src[4]), result(op) {
        std::memcpy(&scale, op->op_params, sizeof(float));
        std::memcpy(&max_bias, op->op_params + 1, sizeof(float));
        std::memcpy(&softcap, op->op_params + 2, sizeof(float));
        if (softcap != 0.0F) {
            scale /= softcap;
        }
    }

    const ggml_fp16_t * mask_of(int64_t row) const {
        return reinterpret_cast<const ggml_fp16_t *>(static_cast<const char *>(mask->data) + row * mask->nb[1]);
    }

    // Of `tensor`, what belongs to a head of queries: several of them share a head of keys and values.
    const char * head_of(const ggml_tensor * tensor, int64_t head) const {
        return static_cast<const char *>(tensor->data) + head / (num_heads() / tensor->ne[2]) * tensor->nb[2];
    }

    const float * query_of(int64_t row, int64_t head) const {
        return reinterpret_cast<const float *>(head_of(q, head) + row * q->nb[1]);
    }

    int64_t num_rows() const { return q->ne[1]; }
    int64_t num_heads() const { return q->ne[2]; }
    int64_t num_cells() const { return k->ne[1]; }
    int64_t num_sharing() const { return num_heads() / k->ne[2]; }  // heads that have the same keys and values

    // One mask for all heads, and one memory for all sequences.
    bool is_plain() const {
        return q->type == GGML_TYPE_F32 && q->ne[3] == 1 && k->ne[3] == 1 && v->ne[3] == 1 && k->ne[2] == v->ne[2] &&
               mask != nullptr && mask->type == GGML_TYPE_F16 && mask->ne[2] == 1 && mask->ne[3] == 1 &&
               max_bias == 0.0F;
    }
};

// Rows [row, row + num_rows), to be computed together.
struct Rows {
    int64_t row;
    int64_t num_rows;
};

// The weights of products that come one after the other (https://arxiv.org/abs/2112.05682): each is told as a share of
// what is added up so far, and what was added up before has to shrink when a larger product comes.
struct Softmax {
    float largest = -INFINITY;
    float sum     = 0.0F;

    struct Shares {
        float of_old = 1.0F;
        float of_new = 1.0F;
    };

    Shares add(float product) {
        Shares shares;
        if (product > largest) {
            shares.of_old = expf(largest - product);
            largest       = product;
        } else {
            shares.of_new = expf(product - largest);
        }
        sum = sum * shares.of_old + shares.of_new;
        return shares;
    }
};

// The cells that one of these rows sees, in order.
void list_seen(const Attention & what, const Rows & rows, std::vector<int32_t> & seen);

// How a row of `tensor` becomes numbers. `target`: as many as a row has.
void unpack(const ggml_tensor * tensor, const char * row, float * target);

// Make the answer of a row's head of the values that were added up.
void finish(const Attention & what, int64_t row, int64_t head, Softmax softmax, float * sum);

// How rows are computed: those of a prompt in tiles, all others each by itself.
struct Plan {
    std::vector<Rows> tiles;  // of `TILE` rows at most
    std::vector<Rows> rows;   // of one row
};

void make_plan(const Attention & what, Plan & plan);

// A row by itself, to the last bit as ggml computes few rows: heads [first, first + num_heads).
void attend_row(const Attention & what, int64_t row, int64_t first, int64_t num_heads);

// Tiles, to the last bit as ggml computes many rows of one sequence alone in a memory, where keys and values are floats
// and there are no sinks. `part` of `num_parts`: of all heads of all tiles.
void attend_tiles(const Attention & what, const std::vector<Rows> & tiles, int64_t part, int64_t num_parts);

// As many parts for each thread, but not many, and none with fewer heads than share keys, as far as there are enough of
// them.
int64_t num_tile_parts(const Attention & what, const std::vector<Rows> & tiles, int num_threads);

// Whether this is attention that `attend` computes.
bool can_attend(const Attention & what);

// All threads of a graph call this.
void attend(const ggml_compute_params * params, const Attention & what);

}  // namespace dmr::cpu
