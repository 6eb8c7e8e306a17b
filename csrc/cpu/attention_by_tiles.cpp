// Many rows, as in a prompt, in tiles of 64 rows and 64 cells. ggml looks at each mask, and unpacks keys and values,
// once for each head; here that is done once for all heads that share them. And ggml cuts rows and heads into parts for
// its threads wherever that falls, so that tiles are begun twice; here a part has whole ones. The numbers are worked
// out in the order of ggml_compute_forward_flash_attn_ext_tiled.

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
    Softmax            softmax[MOST_HEADS * TILE];
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
        if (first_seen(what.mask_of(row), cell, cell + num_cells) < cell + num_cells) {
            return true;
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
    const int num_keys   = static_cast<int>(what.k->ne[0]);
    const int num_values = static_cast<int>(what.v->ne[0]);
    float *   weights    = scratch.weights;
    float *   sums       = scratch.sum.data() + head * TILE * num_values;

    std::fill_n(weights, TILE * CELLS, 0.0F);
    simd_gemm(weights, scratch.query.data() + head * TILE * num_keys, scratch.keys.data(), TILE, num_keys, CELLS);
    ggml_vec_scale_f32(TILE * CELLS, weights, what.scale);
    if (what.softcap != 0.0F) {
        ggml_vec_tanh_f32(TILE * CELLS, weights, weights);
        ggml_vec_scale_f32(TILE * CELLS, weights, what.softcap);
    }
    ggml_vec_add_f32(static_cast<int>(tile.num_rows * CELLS), weights, weights, scratch.bias);

    for (int64_t row = 0; row < TILE; ++row) {
        Softmax & softmax = scratch.softmax[head * TILE + row];
        float *   of_row  = weights + row * CELLS;
        float     largest;
        std::fill(of_row + num_cells, of_row + CELLS, -INFINITY);
        ggml_vec_max_f32(CELLS, &largest, of_row);
        if (largest == -INFINITY) {
            std::fill_n(of_row, CELLS, 0.0F);
            continue;
        }
        if (largest > softmax.largest) {
            const float share = expf(softmax.largest - largest);
            ggml_vec_scale_f32(num_values, sums + row * num_values, share);
            softmax.sum *= share;
            softmax.largest = largest;
        }
        softmax.sum += ggml_vec_soft_max_f32(CELLS, of_row, of_row, softmax.largest);
    }
    simd_gemm(sums, weights, scratch.values.data(), TILE, CELLS, num_values);
}

void prepare(const Attention & what, const Tile & tile, TileScratch & scratch) {
    const int64_t num_keys   = what.k->ne[0];
    const int64_t num_values = what.v->ne[0];
    scratch.query.assign(tile.num * TILE * num_keys, 0.0F);
    scratch.sum.assign(tile.num * TILE * num_values, 0.0F);
    scratch.keys.assign(num_keys * CELLS, 0.0F);
    scratch.values.assign(num_values * CELLS, 0.0F);
    scratch.unpacked.resize(num_keys);
    std::fill_n(scratch.softmax, tile.num * TILE, Softmax{});
    for (int64_t head = 0; head < tile.num; ++head) {
        for (int64_t row = 0; row < tile.num_rows; ++row) {
            std::memcpy(scratch.query.data() + (head * TILE + row) * num_keys,
                        what.query_of(tile.row + row, tile.first + head), num_keys * sizeof(float));
        }
    }
}

void compute_tile(const Attention & what, const Tile & tile, TileScratch & scratch) {
    prepare(what, tile, scratch);
    for (int64_t cell = 0; cell < what.num_cells(); cell += CELLS) {
        const int64_t num_cells = std::min(CELLS, what.num_cells() - cell);
        if (!is_seen(what, tile, cell, num_cells)) {
            continue;
        }
        unpack_cells(what, tile, cell, num_cells, scratch);
        for (int64_t head = 0; head < tile.num; ++head) {
            attend_cells(what, tile, head, num_cells, scratch);
        }
    }
    for (int64_t head = 0; head < tile.num; ++head) {
        for (int64_t row = 0; row < tile.num_rows; ++row) {
            const int64_t place = head * TILE + row;
            finish(what, tile.row + row, tile.first + head, scratch.softmax[place],
                   scratch.sum.data() + place * what.v->ne[0]);
        }
    }
}

// The tile that begins at a place; places are heads of tiles of rows, [tiles, heads]. It ends before `end`.
Tile tile_at(const Attention & what, int64_t place, int64_t end) {
    const int64_t row   = place / what.num_heads() * TILE;
    const int64_t first = place % what.num_heads();
    const int64_t num   = std::min({MOST_HEADS, what.num_sharing() - first % what.num_sharing(), end - place});
    return {first, num, row, std::min(TILE, what.num_rows() - row)};
}

// The same number for each thread, and none with fewer heads than share keys, as far as there are enough of them.
int64_t num_parts(const Attention & what, int64_t num_places, int num_threads) {
    const int64_t num_whole = num_places / std::min(MOST_HEADS, what.num_sharing());
    return std::min(num_places, std::max<int64_t>(1, num_whole / num_threads) * num_threads);
}

}  // namespace

void attend_by_tiles(const ggml_compute_params * params, const Attention & what) {
    thread_local TileScratch scratch;
    const int64_t            num_places = (what.num_rows() + TILE - 1) / TILE * what.num_heads();
    const int64_t            num        = num_parts(what, num_places, params->nth);

    share_out(params, num, [&](int64_t part) {
        const int64_t end = num_places * (part + 1) / num;
        for (int64_t place = num_places * part / num; place < end;) {
            const Tile tile = tile_at(what, place, end);
            compute_tile(what, tile, scratch);
            place += tile.num;
        }
    });
}

}  // namespace dmr::cpu
