// Rows of a prompt, in tiles of 64 rows and 64 cells. ggml looks at each mask, and unpacks keys and values, once for
// each head; here that is done once for all heads that share them, and only for cells that are seen. And ggml cuts rows
// and heads into parts for its threads wherever that falls, so that tiles are begun twice; here a part has whole ones.
// The numbers are worked out in the order of ggml_compute_forward_flash_attn_ext_tiled, as if no other cells were
// there.

#include <algorithm>

#include "attention_operation.h"
#include "simd-gemm.h"
#include "vec.h"

namespace dmr::cpu {
namespace {

constexpr int64_t MOST_PARTS     = 16;  // of a thread: more would only begin tiles anew
constexpr int64_t MOST_HEADS     = 4;   // that share unpacked keys: what they add up has to stay in a core's own cache
constexpr int64_t ROWS_OF_KERNEL = 4;   // that a product of matrices takes at a time
constexpr int64_t LANES          = 16;  // numbers of the widest registers: columns of products are a multiple

// Cells as they are unpacked, with some that nobody sees.
int64_t num_columns(int64_t num_cells) { return (num_cells + LANES - 1) / LANES * LANES; }

// Memory of one thread for tiles.
struct TileScratch {
    std::vector<int32_t> seen;      // cells that a row of the tile sees, in order
    bool                 has_bias;  // that of all cells that are seen, from another head of the same rows
    std::vector<float>   query;     // of each head [rows, size of a head]
    std::vector<float>   sum;       // of each head [rows, size of a value]
    std::vector<float>   keys;      // [size of a head, cells]
    std::vector<float>   values;    // [cells, size of a value]
    std::vector<float>   unpacked;
    float                weights[TILE * CELLS];
    float                bias[TILE * CELLS];
    Softmax              softmax[MOST_HEADS * TILE];
};

// Heads [first, first + num) that share keys and values, and some rows of them.
struct Tile {
    int64_t first;
    int64_t num;
    int64_t row;
    int64_t num_rows;

    // With some that nobody has, so that no row is computed by itself.
    int64_t num_computed() const {
        return std::min(TILE, (num_rows + ROWS_OF_KERNEL - 1) / ROWS_OF_KERNEL * ROWS_OF_KERNEL);
    }
};

void unpack_bias(const Attention & what, const Tile & tile, const int32_t * cells, int64_t num_cells, float * bias) {
    const bool  is_together = cells[num_cells - 1] - cells[0] == num_cells - 1;
    ggml_fp16_t gathered[CELLS];
    for (int64_t row = 0; row < tile.num_rows; ++row, bias += num_columns(num_cells)) {
        const ggml_fp16_t * mask = what.mask_of(tile.row + row);
        if (is_together) {
            mask += cells[0];
        } else {
            for (int64_t each = 0; each < num_cells; ++each) {
                gathered[each] = mask[cells[each]];
            }
            mask = gathered;
        }
        ggml_cpu_fp16_to_fp32(mask, bias, num_cells);
        std::fill(bias + num_cells, bias + num_columns(num_cells), -INFINITY);
    }
}

void unpack_cells(const Attention & what, const Tile & tile, const int32_t * cells, int64_t num_cells,
                  TileScratch & scratch) {
    const char * keys   = what.head_of(what.k, tile.first);
    const char * values = what.head_of(what.v, tile.first);
    const auto   stride = num_columns(num_cells);
    if (stride != num_cells) {
        std::fill_n(scratch.keys.data(), what.k->ne[0] * stride, 0.0F);
    }
    std::fill_n(scratch.values.data() + num_cells * what.v->ne[0], (stride - num_cells) * what.v->ne[0], 0.0F);
    for (int64_t each = 0; each < num_cells; ++each) {
        unpack(what.k, keys + cells[each] * what.k->nb[1], scratch.unpacked.data());
        for (int64_t i = 0; i < what.k->ne[0]; ++i) {
            scratch.keys[i * stride + each] = scratch.unpacked[i];
        }
        unpack(what.v, values + cells[each] * what.v->nb[1], scratch.values.data() + each * what.v->ne[0]);
    }
    if (!scratch.has_bias) {
        unpack_bias(what, tile, cells, num_cells, scratch.bias);
        scratch.has_bias = num_cells == static_cast<int64_t>(scratch.seen.size());
    }
}

// Add to a head's sums what its rows see in the unpacked cells.
void attend_cells(const Attention & what, const Tile & tile, int64_t head, int64_t num_cells, TileScratch & scratch) {
    const int num_rows   = static_cast<int>(tile.num_computed());
    const int num_keys   = static_cast<int>(what.k->ne[0]);
    const int num_values = static_cast<int>(what.v->ne[0]);
    const int columns    = static_cast<int>(num_columns(num_cells));
    const int num_all    = num_rows * columns;
    float *   weights    = scratch.weights;
    float *   sums       = scratch.sum.data() + head * TILE * num_values;

    std::fill_n(weights, num_all, 0.0F);
    simd_gemm(weights, scratch.query.data() + head * TILE * num_keys, scratch.keys.data(), num_rows, num_keys, columns);
    ggml_vec_scale_f32(num_all, weights, what.scale);
    if (what.softcap != 0.0F) {
        ggml_vec_tanh_f32(num_all, weights, weights);
        ggml_vec_scale_f32(num_all, weights, what.softcap);
    }
    ggml_vec_add_f32(static_cast<int>(tile.num_rows) * columns, weights, weights, scratch.bias);

    for (int64_t row = 0; row < tile.num_rows; ++row) {
        Softmax & softmax = scratch.softmax[head * TILE + row];
        float *   of_row  = weights + row * columns;
        float     largest;
        std::fill(of_row + num_cells, of_row + columns, -INFINITY);
        ggml_vec_max_f32(columns, &largest, of_row);
        if (largest == -INFINITY) {
            std::fill_n(of_row, columns, 0.0F);
            continue;
        }
        if (largest > softmax.largest) {
            const float share = expf(softmax.largest - largest);
            ggml_vec_scale_f32(num_values, sums + row * num_values, share);
            softmax.sum *= share;
            softmax.largest = largest;
        }
        softmax.sum += ggml_vec_soft_max_f32(columns, of_row, of_row, softmax.largest);
    }
    simd_gemm(sums, weights, scratch.values.data(), num_rows, columns, num_values);
}

void prepare(const Attention & what, const Tile & tile, TileScratch & scratch) {
    const int64_t num_keys   = what.k->ne[0];
    const int64_t num_values = what.v->ne[0];
    const int64_t num_rows   = tile.num_computed();
    scratch.query.resize(tile.num * TILE * num_keys);
    scratch.sum.resize(tile.num * TILE * num_values);
    scratch.keys.resize(num_keys * CELLS);
    scratch.values.resize(num_values * CELLS);
    scratch.unpacked.resize(num_keys);
    for (int64_t head = 0; head < tile.num; ++head) {
        float * query = scratch.query.data() + head * TILE * num_keys;
        for (int64_t row = 0; row < tile.num_rows; ++row) {
            std::memcpy(query + row * num_keys, what.query_of(tile.row + row, tile.first + head),
                        num_keys * sizeof(float));
        }
        std::fill(query + tile.num_rows * num_keys, query + num_rows * num_keys, 0.0F);
        std::fill_n(scratch.sum.data() + head * TILE * num_values, num_rows * num_values, 0.0F);
        std::fill_n(scratch.softmax + head * TILE, num_rows, Softmax{});
    }
}

void attend_tile(const Attention & what, const Tile & tile, TileScratch & scratch) {
    prepare(what, tile, scratch);
    const auto num_seen = static_cast<int64_t>(scratch.seen.size());
    for (int64_t begin = 0; begin < num_seen; begin += CELLS) {
        const int64_t num_cells = std::min(CELLS, num_seen - begin);
        unpack_cells(what, tile, scratch.seen.data() + begin, num_cells, scratch);
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

int64_t num_places(const Attention & what, const std::vector<Rows> & tiles) {
    return static_cast<int64_t>(tiles.size()) * what.num_heads();
}

// Where a part begins: with heads that share keys as a whole, if there are enough of them.
int64_t first_place(const Attention & what, const std::vector<Rows> & tiles, int64_t part, int64_t num_parts) {
    const int64_t num       = num_places(what, tiles);
    const int64_t num_whole = num / what.num_sharing();
    return num_parts <= num_whole ? num_whole * part / num_parts * what.num_sharing() : num * part / num_parts;
}

// The tile that begins at a place; places are heads of tiles, [tiles, heads]. It ends before `end`.
Tile tile_at(const Attention & what, const std::vector<Rows> & tiles, int64_t place, int64_t end) {
    const Rows &  rows  = tiles[place / what.num_heads()];
    const int64_t first = place % what.num_heads();
    const int64_t num   = std::min({MOST_HEADS, what.num_sharing() - first % what.num_sharing(), end - place});
    return {first, num, rows.row, rows.num_rows};
}

}  // namespace

int64_t num_tile_parts(const Attention & what, const std::vector<Rows> & tiles, int num_threads) {
    const int64_t num       = num_places(what, tiles);
    const int64_t num_whole = num / std::min(MOST_HEADS, what.num_sharing());
    return std::min(num, std::clamp<int64_t>(num_whole / num_threads, 1, MOST_PARTS) * num_threads);
}

void attend_tiles(const Attention & what, const std::vector<Rows> & tiles, int64_t part, int64_t num_parts) {
    thread_local TileScratch scratch;
    const int64_t            end = first_place(what, tiles, part + 1, num_parts);
    int64_t                  row = -1;  // of the last tile
    for (int64_t place = first_place(what, tiles, part, num_parts); place < end;) {
        const Tile tile = tile_at(what, tiles, place, end);
        if (tile.row != row) {
            list_seen(what, {tile.row, tile.num_rows}, scratch.seen);
            scratch.has_bias = false;
            row              = tile.row;
        }
        attend_tile(what, tile, scratch);
        place += tile.num;
    }
}

}  // namespace dmr::cpu
