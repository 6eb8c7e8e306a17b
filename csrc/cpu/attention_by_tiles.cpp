// Many rows, as in a prompt, in tiles of 64 rows and 64 cells. ggml looks at each mask, and unpacks keys and values,
// once for each head; here that is done once for all heads that share them. And ggml cuts rows and heads into parts for
// its threads wherever that falls, so that tiles are begun twice; here a part has whole ones. The arithmetic, in its
// order, is that of ggml_compute_forward_flash_attn_ext_tiled.

#include <algorithm>
#include <vector>

#include "attention_operation.h"
#include "simd-gemm.h"
#include "vec.h"

namespace dmr::cpu {
namespace {

constexpr int64_t MOST_HEADS = 4;  // that share unpacked keys: what they add up has to stay in a core's own cache

// Memory of one thread for tiles.
struct TileScratch {
    std::vector<float> query;   // of each head [rows, size of a head]
    std::vector<float> sum;     // of each head [rows, size of a value]
    std::vector<float> keys;    // [size of a head, cells]
    std::vector<float> values;  // [cells, size of a value]
    std::vector<float> unpacked;
    float              weights[TILE * CELLS];
    float              bias[TILE * CELLS];
    float              S[MOST_HEADS * TILE];
    float              M[MOST_HEADS * TILE];
};

// Heads [first, first + num) that share keys and values, and rows [row, row + num_rows) of them.
struct Tile {
    int64_t first;
    int64_t num;
    int64_t row;
    int64_t num_rows;
};

bool is_seen(const Attention & what, const Tile & tile, int64_t cell, int64_t num_cells) {
    for (int64_t row = tile.row; row < tile.row + tile.num_rows; ++row) {
        const ggml_fp16_t * mask = what.mask_of(row) + cell;
        int64_t             each = 0;
        for (; each + 4 <= num_cells; each += 4) {
            uint64_t four;
            std::memcpy(&four, mask + each, sizeof(four));
            if (four != FOUR_UNSEEN) {
                return true;
            }
        }
        for (; each < num_cells; ++each) {
            if (mask[each] != UNSEEN) {
                return true;
            }
        }
    }
    return false;
}

void unpack(const ggml_tensor * tensor, const char * row, float * target) {
    if (tensor->type == GGML_TYPE_F16) {
        ggml_cpu_fp16_to_fp32(reinterpret_cast<const ggml_fp16_t *>(row), target, tensor->ne[0]);
    } else {
        std::memcpy(target, row, tensor->ne[0] * sizeof(float));
    }
}

void unpack_cells(const Attention & what, const Tile & tile, int64_t cell, int64_t num_cells, TileScratch & scratch) {
    const char * keys   = what.head_of(what.k, tile.first) + cell * what.k->nb[1];
    const char * values = what.head_of(what.v, tile.first) + cell * what.v->nb[1];
    for (int64_t each = 0; each < num_cells; ++each) {
        unpack(what.k, keys + each * what.k->nb[1], scratch.unpacked.data());
        for (int64_t i = 0; i < what.k->ne[0]; ++i) {
            scratch.keys[i * CELLS + each] = scratch.unpacked[i];
        }
        unpack(what.v, values + each * what.v->nb[1], scratch.values.data() + each * what.v->ne[0]);
    }
    for (int64_t row = 0; row < tile.num_rows; ++row) {
        float * bias = scratch.bias + row * CELLS;
        ggml_cpu_fp16_to_fp32(what.mask_of(tile.row + row) + cell, bias, num_cells);
        std::fill(bias + num_cells, bias + CELLS, -INFINITY);
    }
}

// Add to a head's sums what its rows see in the unpacked cells.
void attend_cells(const Attention & what, const Tile & tile, int64_t head, int64_t num_cells, TileScratch & scratch) {
    const int   num_keys   = static_cast<int>(what.k->ne[0]);
    const int   num_values = static_cast<int>(what.v->ne[0]);
    const float scale      = what.softcap != 0 ? what.scale / what.softcap : what.scale;
    float *     weights    = scratch.weights;
    float *     sum        = scratch.sum.data() + head * TILE * num_values;
    float *     S          = scratch.S + head * TILE;
    float *     M          = scratch.M + head * TILE;

    std::fill_n(weights, TILE * CELLS, 0.0F);
    simd_gemm(weights, scratch.query.data() + head * TILE * num_keys, scratch.keys.data(), TILE, num_keys, CELLS);
    ggml_vec_scale_f32(TILE * CELLS, weights, scale);
    if (what.softcap != 0.0F) {
        ggml_vec_tanh_f32(TILE * CELLS, weights, weights);
        ggml_vec_scale_f32(TILE * CELLS, weights, what.softcap);
    }
    for (int64_t row = 0; num_cells < CELLS && row < TILE; ++row) {
        std::fill(weights + row * CELLS + num_cells, weights + (row + 1) * CELLS, -INFINITY);
    }
    ggml_vec_add_f32(static_cast<int>(tile.num_rows * CELLS), weights, weights, scratch.bias);

    for (int64_t row = 0; row < TILE; ++row) {
        float * of_row = weights + row * CELLS;
        float   largest;
        ggml_vec_max_f32(CELLS, &largest, of_row);
        if (largest == -INFINITY) {
            std::fill_n(of_row, CELLS, 0.0F);
            continue;
        }
        const float before = M[row];
        const float now    = fmaxf(before, largest);
        if (now > before) {
            const float ms = expf(before - now);
            ggml_vec_scale_f32(num_values, sum + row * num_values, ms);
            S[row] *= ms;
        }
        M[row] = now;
        S[row] += ggml_vec_soft_max_f32(CELLS, of_row, of_row, now);
    }
    simd_gemm(sum, weights, scratch.values.data(), TILE, CELLS, num_values);
}

void finish(const Attention & what, const Tile & tile, int64_t head, TileScratch & scratch, ggml_tensor * dst) {
    const int num_values = static_cast<int>(what.v->ne[0]);
    for (int64_t row = 0; row < tile.num_rows; ++row) {
        float * sum = scratch.sum.data() + (head * TILE + row) * num_values;
        float & S   = scratch.S[head * TILE + row];
        if (what.sinks != nullptr) {
            const float s  = static_cast<const float *>(what.sinks->data)[tile.first + head];
            const float M  = scratch.M[head * TILE + row];
            float       ms = 1.0F;
            float       vs = 1.0F;
            if (s > M) {
                ms = expf(M - s);
                ggml_vec_scale_f32(num_values, sum, ms);
            } else {
                vs = expf(s - M);
            }
            S = S * ms + vs;
        }
        ggml_vec_scale_f32(num_values, sum, S == 0.0F ? 0.0F : 1.0F / S);
        std::memcpy(static_cast<char *>(dst->data) + (tile.first + head + (tile.row + row) * dst->ne[1]) * dst->nb[1],
                    sum, dst->nb[1]);
    }
}

void compute_tile(const Attention & what, const Tile & tile, TileScratch & scratch, ggml_tensor * dst) {
    const int64_t num_keys   = what.k->ne[0];
    const int64_t num_values = what.v->ne[0];
    scratch.query.assign(tile.num * TILE * num_keys, 0.0F);
    scratch.sum.assign(tile.num * TILE * num_values, 0.0F);
    scratch.keys.assign(num_keys * CELLS, 0.0F);
    scratch.values.assign(num_values * CELLS, 0.0F);
    scratch.unpacked.resize(num_keys);
    std::fill_n(scratch.S, tile.num * TILE, 0.0F);
    std::fill_n(scratch.M, tile.num * TILE, -INFINITY);
    for (int64_t head = 0; head < tile.num; ++head) {
        const char * rows = what.head_of(what.q, tile.first + head) + tile.row * what.q->nb[1];
        for (int64_t row = 0; row < tile.num_rows; ++row) {
            std::memcpy(scratch.query.data() + (head * TILE + row) * num_keys, rows + row * what.q->nb[1],
                        num_keys * sizeof(float));
        }
    }

    const int64_t num_all = what.k->ne[1];
    for (int64_t cell = 0; cell < num_all; cell += CELLS) {
        const int64_t num_cells = std::min(CELLS, num_all - cell);
        if (!is_seen(what, tile, cell, num_cells)) {
            continue;
        }
        unpack_cells(what, tile, cell, num_cells, scratch);
        for (int64_t head = 0; head < tile.num; ++head) {
            attend_cells(what, tile, head, num_cells, scratch);
        }
    }
    for (int64_t head = 0; head < tile.num; ++head) {
        finish(what, tile, head, scratch, dst);
    }
}

// The tile that begins at a place; places are heads of tiles of rows, [tiles, heads]. It ends before `end`.
Tile tile_at(const Attention & what, int64_t place, int64_t end) {
    const int64_t group = what.num_heads() / std::max(what.k->ne[2], what.v->ne[2]);
    const int64_t row   = place / what.num_heads() * TILE;
    const int64_t first = place % what.num_heads();
    const int64_t num   = std::min({MOST_HEADS, group - first % group, end - place});
    return {first, num, row, std::min(TILE, what.num_rows() - row)};
}

// As many parts as each thread has the same number of, and none with fewer heads than share keys.
int64_t num_parts(const Attention & what, int64_t num_places, int num_threads) {
    const int64_t group = std::min(MOST_HEADS, what.num_heads() / what.k->ne[2]);
    return std::min(num_places, std::max<int64_t>(1, num_places / group / num_threads) * num_threads);
}

}  // namespace

void attend_by_tiles(const ggml_compute_params * params, const Attention & what, ggml_tensor * dst) {
    thread_local TileScratch scratch;
    const int64_t            num_places = (what.num_rows() + TILE - 1) / TILE * what.num_heads();
    const int64_t            num        = num_parts(what, num_places, params->nth);

    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);
    for (int64_t part = params->ith; part < num; part = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const int64_t end = num_places * (part + 1) / num;
        for (int64_t place = num_places * part / num; place < end;) {
            const Tile tile = tile_at(what, place, end);
            compute_tile(what, tile, scratch, dst);
            place += tile.num;
        }
    }
}

}  // namespace dmr::cpu
