#include "float_product.h"

#include "packed_weights.h"

#if defined(__AMX_INT8__) && defined(__AVX512VNNI__) && defined(__AVX512BF16__)

#include <cpuid.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "ggml-cpu.h"
#include "tiles.h"

namespace dmr::cpu {
namespace {

using Float = uint16_t;  // bfloat16

constexpr int64_t TILE_SIZE = ROWS * BLOCK;  // floats, of numbers and of weights alike

constexpr int64_t MOST_BLOCKS         = 16;  // of two panels, in 32 of a cache's 48 KiB
constexpr int64_t LEAST_ROWS_A_THREAD = 96;  // for which it pays to unpack all weights

// Of rows of numbers.
struct Tiles {
    int64_t first;
    int64_t end;
};

// Memory that is going to be read.
struct Ahead {
    const char * data;
    size_t       size;

    // One of so many parts.
    void fetch(int64_t part, int64_t num_parts) const {
        if (data == nullptr) {
            return;
        }
        for (size_t place = size * part / num_parts / 64 * 64; place < size * (part + 1) / num_parts; place += 64) {
            _mm_prefetch(data + place, _MM_HINT_T1);
        }
    }
};

__m512i as_floats(__m512 first, __m512 second) { return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first)); }

// Rows of numbers as they are multiplied, [tiles, blocks, rows, numbers of a block].
class Workspace {
  public:
    Workspace(const ggml_compute_params * params, const ggml_tensor * op)
        : num_blocks_(op->src[0]->ne[0] / BLOCK), values_(aligned(params->wdata)) {}

    static size_t size(const ggml_tensor * op) {
        return ((op->src[1]->ne[1] + ROWS - 1) / ROWS) * ROWS * op->src[0]->ne[0] * sizeof(Float) + 64;
    }

    const Float * tile(int64_t number) const { return values_ + number * num_blocks_ * TILE_SIZE; }

    void put_row(const float * row, int64_t number) {
        for (int64_t block = 0; block < num_blocks_; ++block, row += BLOCK) {
            _mm512_store_si512(place(number, block), as_floats(_mm512_loadu_ps(row), _mm512_loadu_ps(row + BLOCK / 2)));
        }
    }

    void clear_row(int64_t number) {
        for (int64_t block = 0; block < num_blocks_; ++block) {
            _mm512_store_si512(place(number, block), _mm512_setzero_si512());
        }
    }

  private:
    Float * place(int64_t row, int64_t block) {
        return values_ + ((row / ROWS * num_blocks_ + block) * ROWS + row % ROWS) * BLOCK;
    }

    static Float * aligned(void * memory) {
        return reinterpret_cast<Float *>((reinterpret_cast<uintptr_t>(memory) + 63) / 64 * 64);
    }

    int64_t num_blocks_;
    Float * values_;
};

// A block of 16 rows of weights, [pairs, rows, 2]: of 4 bytes that lie together each is shifted to the front, where it
// counts 2^24 times.
template <typename Type> void unpack_block(const char * packed, Float * target) {
    const __m512i in_turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                              6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    alignas(64) int8_t bytes[COLUMNS * BLOCK];
    Type::unpack(packed, bytes);
    const auto *  values = Type::IS_PACKED ? bytes : reinterpret_cast<const int8_t *>(packed);
    const char *  scales = packed + Type::SIZE_OF_VALUES;
    const __m512  scale  = _mm512_mul_ps(halves_at(scales), _mm512_set1_ps(0x1p-24F));
    const __m512  least  = Type::HAS_LEAST ? halves_at(scales + COLUMNS * sizeof(ggml_half)) : _mm512_setzero_ps();
    const __m512i front  = _mm512_set1_epi32(static_cast<int>(0xFF000000U));
    const auto weight = [&](__m512i at_front) { return _mm512_fmadd_ps(_mm512_cvtepi32_ps(at_front), scale, least); };
    const auto put    = [&](__m512 first, __m512 second) {
        _mm512_store_si512(target, _mm512_permutexvar_epi16(in_turns, as_floats(first, second)));
        target += 2 * COLUMNS;
    };
    for (int64_t begin = 0; begin < COLUMNS * BLOCK; begin += 64) {
        const __m512i four = _mm512_loadu_si512(values + begin);
        put(weight(_mm512_slli_epi32(four, 24)), weight(_mm512_and_si512(_mm512_slli_epi32(four, 16), front)));
        put(weight(_mm512_and_si512(_mm512_slli_epi32(four, 8), front)), weight(_mm512_and_si512(four, front)));
    }
}

// Two panels of weights, unpacked: [panels, blocks, ...].
struct Panels {
    const Float * weights;
    int64_t       num_blocks;
};

// A part of the blocks.
struct Blocks {
    int64_t first;
    int64_t end;
};

// Where 32 columns of a result begin in some row.
struct Columns {
    float * place;
    size_t  stride;  // bytes from row to row

    Columns below(int64_t rows) const { return {place + rows * static_cast<int64_t>(stride / sizeof(float)), stride}; }
};

// A tile of numbers times two panels, added to what the blocks before gave. Of 8 tiles 4 are used, two of them again
// and again: where the core's other thread is busy with something else, a processor has few more registers for tiles
// than names, and with all of them in use each product waits for the one before.
__attribute__((target("amx-bf16"))) void multiply_tile(const Float * numbers, const Panels & panels,
                                                       const Blocks & blocks, const Columns & result) {
    const Float * weights = panels.weights;
    const Float * others  = weights + panels.num_blocks * TILE_SIZE;
    if (blocks.first == 0) {
        _tile_zero(0);
        _tile_zero(1);
    } else {
        _tile_loadd(0, result.place, result.stride);
        _tile_loadd(1, result.place + COLUMNS, result.stride);
    }
    for (int64_t begin = blocks.first * TILE_SIZE; begin < blocks.end * TILE_SIZE; begin += TILE_SIZE) {
        _tile_loadd(2, numbers + begin, 64);
        _tile_loadd(3, weights + begin, 64);
        _tile_dpbf16ps(0, 2, 3);
        _tile_loadd(3, others + begin, 64);
        _tile_dpbf16ps(1, 2, 3);
    }
    _tile_stored(0, result.place, result.stride);
    _tile_stored(1, result.place + COLUMNS, result.stride);
}

// The same where fewer rows are left than a tile has.
void multiply_last_tile(const Float * numbers, const Panels & panels, int64_t num_rows, const Columns & result) {
    alignas(64) float whole[ROWS * 2 * COLUMNS];
    multiply_tile(numbers, panels, {0, panels.num_blocks}, {whole, 2 * COLUMNS * sizeof(float)});
    finish_stores();
    for (int64_t row = 0; row < num_rows; ++row) {
        std::memcpy(result.below(row).place, whole + row * 2 * COLUMNS, 2 * COLUMNS * sizeof(float));
    }
}

// Memory of one thread for two unpacked panels.
Float * unpacked_panels(int64_t num_blocks) {
    thread_local std::vector<Float> memory;
    memory.resize(2 * num_blocks * TILE_SIZE + 32);
    return reinterpret_cast<Float *>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
}

template <typename Type> class Product {
  public:
    Product(const ggml_compute_params * params, ggml_tensor * op)
        : op_(op),
          workspace_(params, op),
          num_rows_(op->src[1]->ne[1]),
          num_tiles_((num_rows_ + ROWS - 1) / ROWS),
          num_blocks_(op->src[0]->ne[0] / BLOCK),
          num_pairs_(op->ne[0] / COLUMNS / 2),
          unpacked_(unpacked_panels(num_blocks_)) {}

    // Of all tiles.
    Tiles part(int64_t number, int64_t num) const {
        return {num_tiles_ * number / num, num_tiles_ * (number + 1) / num};
    }

    void put_rows(const Tiles & tiles) {
        const ggml_tensor * src = op_->src[1];
        for (int64_t row = tiles.first * ROWS; row < tiles.end * ROWS; ++row) {
            if (row < num_rows_) {
                const char * data = static_cast<const char *>(src->data) + row * src->nb[1];
                workspace_.put_row(reinterpret_cast<const float *>(data), row);
            } else {
                workspace_.clear_row(row);
            }
        }
    }

    // Tiles of rows times a pair of panels: in parts, of which the weights stay in the cache that is next to the core.
    // What is going to be multiplied then is fetched meanwhile, since it lies far away.
    void multiply(const Tiles & tiles, int64_t pair, int64_t next) {
        unpack(pair);
        const Ahead   ahead{next < num_pairs_ ? packed_pair(next) : nullptr, 2 * num_blocks_ * Type::SIZE};
        const Panels  panels{unpacked_, num_blocks_};
        const Columns result{static_cast<float *>(op_->data) + 2 * pair * COLUMNS, op_->nb[1]};
        const int64_t num_parts = (num_blocks_ + MOST_BLOCKS - 1) / MOST_BLOCKS;
        const int64_t num_whole = std::min(tiles.end, num_rows_ / ROWS);
        for (int64_t part = 0; part < num_parts; ++part) {
            const Blocks blocks{num_blocks_ * part / num_parts, num_blocks_ * (part + 1) / num_parts};
            for (int64_t tile = tiles.first; tile < num_whole; ++tile) {
                ahead.fetch(part * (num_whole - tiles.first) + tile - tiles.first,
                            num_parts * (num_whole - tiles.first));
                multiply_tile(workspace_.tile(tile), panels, blocks, result.below(tile * ROWS));
            }
        }
        if (num_whole < tiles.end) {
            multiply_last_tile(workspace_.tile(num_whole), panels, num_rows_ % ROWS, result.below(num_whole * ROWS));
        }
    }

    int64_t num_rows() const { return num_rows_; }
    int64_t num_pairs() const { return num_pairs_; }

  private:
    void unpack(int64_t pair) {
        const char * packed = packed_pair(pair);
        for (int64_t block = 0; block < 2 * num_blocks_; ++block) {
            unpack_block<Type>(packed + block * Type::SIZE, unpacked_ + block * TILE_SIZE);
        }
        finish_stores();
    }

    const char * packed_pair(int64_t pair) const {
        return static_cast<const char *>(op_->src[0]->data) + 2 * pair * num_blocks_ * Type::SIZE;
    }

    ggml_tensor * op_;
    Workspace     workspace_;
    int64_t       num_rows_;
    int64_t       num_tiles_;
    int64_t       num_blocks_;
    int64_t       num_pairs_;
    Float *       unpacked_;
};

// With many rows a thread takes some of them and all weights: it has them in its own cache, and what comes before and
// after is divided in the same way. With few, it takes all of them and some weights, so that these are unpacked once.
template <typename Type> void multiply_with(const ggml_compute_params * params, ggml_tensor * op) {
    Product<Type> product(params, op);
    if (product.num_rows() >= LEAST_ROWS_A_THREAD * params->nth) {
        const Tiles tiles = product.part(params->ith, params->nth);
        product.put_rows(tiles);
        configure_large_tiles();
        for (int64_t pair = 0; pair < product.num_pairs(); ++pair) {
            product.multiply(tiles, pair, pair + 1);
        }
        configure_tiles();
        return;
    }
    product.put_rows(product.part(params->ith, params->nth));
    ggml_barrier(params->threadpool);
    configure_large_tiles();
    const int64_t end = product.num_pairs() * (params->ith + 1) / params->nth;
    for (int64_t pair = product.num_pairs() * params->ith / params->nth; pair < end; ++pair) {
        product.multiply(product.part(0, 1), pair, pair + 1);
    }
    configure_tiles();
}

}  // namespace

// Not every compiler knows this one by name. That the system lets tiles be used, ggml has seen to.
bool has_float_products() {
    static const bool has = [] {
        constexpr unsigned int AMX_BF16 = 1U << 22U;
        unsigned int           a        = 0;
        unsigned int           b        = 0;
        unsigned int           c        = 0;
        unsigned int           d        = 0;
        return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & AMX_BF16) != 0;
    }();
    return has;
}

size_t size_of_float_product(const ggml_tensor * op) { return has_float_products() ? Workspace::size(op) : 0; }

void multiply_floats(const ggml_compute_params * params, ggml_tensor * op) {
    with_type(op->src[0]->type, [&](auto type) { multiply_with<decltype(type)>(params, op); });
}

}  // namespace dmr::cpu

#else

namespace dmr::cpu {

bool has_float_products() { return false; }

size_t size_of_float_product(const ggml_tensor * /*op*/) { return 0; }

void multiply_floats(const ggml_compute_params * /*params*/, ggml_tensor * /*op*/) {}

}  // namespace dmr::cpu

#endif
