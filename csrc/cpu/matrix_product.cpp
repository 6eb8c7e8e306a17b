#include "matrix_product.h"

#if defined(__AMX_INT8__) && defined(__AVX512VNNI__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "amx/amx.h"
#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "packed_weights.h"
#include "simd-mappings.h"
#include "tiles.h"

namespace dmr::cpu {
namespace {

constexpr int64_t LEAST_ROWS = 17;  // of numbers; fewer are left to ggml, which is as quick

// Tiles of the processor, in a configuration that is that of ggml. Compilers want them as they are written.
// Every second block has others, so that one need not wait for the other.
#define TILE_PRODUCT(sums, numbers, weights, numbers_at, weights_at, result) \
    _tile_zero(sums);                                                        \
    _tile_loadd(weights, weights_at, 64);                                    \
    _tile_loadd(numbers, numbers_at, BLOCK);                                 \
    _tile_dpbssd(sums, numbers, weights);                                    \
    _tile_stored(sums, result, COLUMNS * sizeof(int32_t))

// 16 rows of 32 numbers each, of which the last are 0 where there are fewer.
struct Numbers {
    int8_t values[ROWS * BLOCK];
    float  scales[ROWS];
    float  sums[ROWS];  // of the scaled values
};

// 16 rows of weights, as they are packed and as they are multiplied.
struct Panel {
    const char *   weights;
    const int8_t * unpacked;
    int64_t        num_blocks;
};

// Sums of tiles of `NUM_ROWS` rows of numbers that come one after the other, times a panel. The next block is always
// multiplied while the one before is scaled and added.
template <typename Type, int NUM_ROWS>
void multiply_tiles(const Numbers * numbers, int64_t num_tiles, const Panel & panel, float * result, int64_t stride,
                    int64_t num_rows) {
    alignas(64) int32_t products[2][ROWS * COLUMNS];
    const int64_t       num     = num_tiles * panel.num_blocks;
    const auto          compute = [&](int64_t number, int64_t block) {
        const int8_t * values = Type::IS_PACKED ? panel.unpacked + block * COLUMNS * BLOCK
                                                : reinterpret_cast<const int8_t *>(panel.weights + block * Type::SIZE);
        if (number & 1) {
            TILE_PRODUCT(5, 3, 1, numbers[number].values, values, products[1]);
        } else {
            TILE_PRODUCT(4, 2, 0, numbers[number].values, values, products[0]);
        }
    };

    compute(0, 0);
    int64_t number = 0;
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
        __m512 sums[NUM_ROWS];
#pragma GCC unroll 16
        for (int row = 0; row < NUM_ROWS; ++row) {
            sums[row] = _mm512_setzero_ps();
        }
        for (int64_t block = 0; block < panel.num_blocks; ++block, ++number) {
            if (number + 1 < num) {
                compute(number + 1, block + 1 < panel.num_blocks ? block + 1 : 0);
            }
            const char *    scales = panel.weights + block * Type::SIZE + Type::SIZE_OF_VALUES;
            const __m512    scale  = halves_at(scales);
            const __m512    least  = Type::HAS_LEAST ? halves_at(scales + COLUMNS * sizeof(ggml_half)) : scale;
            const Numbers & each   = numbers[number];
            const int32_t * of     = products[number & 1];
#pragma GCC unroll 16
            for (int row = 0; row < NUM_ROWS; ++row) {
                const __m512 product = _mm512_cvtepi32_ps(_mm512_load_si512(of + row * COLUMNS));
                sums[row] = _mm512_fmadd_ps(product, _mm512_mul_ps(scale, _mm512_set1_ps(each.scales[row])), sums[row]);
                if (Type::HAS_LEAST) {
                    sums[row] = _mm512_fmadd_ps(least, _mm512_set1_ps(each.sums[row]), sums[row]);
                }
            }
        }
#pragma GCC unroll 16
        for (int row = 0; row < NUM_ROWS; ++row) {
            if (tile * ROWS + row < num_rows) {
                _mm512_storeu_ps(result + (tile * ROWS + row) * stride, sums[row]);
            }
        }
    }
}

// What is left of the last tile may be few rows.
template <typename Type>
void multiply_panel(const Numbers * numbers, const Panel & panel, float * result, int64_t stride, int64_t num_rows) {
    const int64_t num_left = num_rows % ROWS;
    const int64_t num_full = num_rows / ROWS + (num_left > 8 ? 1 : 0);
    if (num_full > 0) {
        multiply_tiles<Type, 16>(numbers, num_full, panel, result, stride, num_rows);
    }
    numbers += num_full * panel.num_blocks;
    result += num_full * ROWS * stride;
    if (num_left > 4 && num_left <= 8) {
        multiply_tiles<Type, 8>(numbers, 1, panel, result, stride, num_left);
    } else if (num_left > 0 && num_left <= 4) {
        multiply_tiles<Type, 4>(numbers, 1, panel, result, stride, num_left);
    }
}

// What is left of a number that ggml keeps in half precision.
float as_half(float number) { return GGML_CPU_FP16_TO_FP32(GGML_CPU_FP32_TO_FP16(number)); }

// Rows of numbers as they are multiplied, [tiles, blocks].
class Workspace {
  public:
    Workspace(const ggml_compute_params * params, const ggml_tensor * op)
        : num_blocks_(op->src[0]->ne[0] / BLOCK),
          numbers_(reinterpret_cast<Numbers *>((reinterpret_cast<uintptr_t>(params->wdata) + 63) / 64 * 64)) {}

    static size_t size(const ggml_tensor * op) {
        return ((op->src[1]->ne[1] + ROWS - 1) / ROWS) * (op->src[0]->ne[0] / BLOCK) * sizeof(Numbers) + 64;
    }

    const Numbers * numbers() const { return numbers_; }

    // Quantized as ggml does.
    void put_row(const float * row, int64_t number) {
        Numbers *     tile  = numbers_ + number / ROWS * num_blocks_;
        const int64_t place = number % ROWS;
        for (int64_t block = 0; block < num_blocks_; ++block) {
            const __m512  first   = _mm512_loadu_ps(row + block * BLOCK);
            const __m512  second  = _mm512_loadu_ps(row + block * BLOCK + BLOCK / 2);
            const float   largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(first), _mm512_abs_ps(second)));
            const float   scale   = largest / 127.0F;
            const __m512  inverse = _mm512_set1_ps(largest != 0.0F ? 127.0F / largest : 0.0F);
            const auto    values  = [&](__m512 numbers) { return _mm512_cvtps_epi32(_mm512_mul_ps(numbers, inverse)); };
            const __m512i one     = values(first);
            const __m512i other   = values(second);
            auto *        target  = reinterpret_cast<__m128i *>(tile[block].values + place * BLOCK);
            _mm_store_si128(target, _mm512_cvtsepi32_epi8(one));
            _mm_store_si128(target + 1, _mm512_cvtsepi32_epi8(other));
            const float sum = scale * static_cast<float>(_mm512_reduce_add_epi32(_mm512_add_epi32(one, other)));
            tile[block].scales[place] = as_half(scale);
            tile[block].sums[place]   = as_half(sum);
        }
    }

    void clear_row(int64_t number) {
        Numbers * tile = numbers_ + number / ROWS * num_blocks_;
        for (int64_t block = 0; block < num_blocks_; ++block) {
            std::memset(tile[block].values + number % ROWS * BLOCK, 0, BLOCK);
            tile[block].scales[number % ROWS] = tile[block].sums[number % ROWS] = 0.0F;
        }
    }

  private:
    int64_t   num_blocks_;
    Numbers * numbers_;
};

template <typename Type> void multiply_with(const ggml_compute_params * params, ggml_tensor * op) {
    const ggml_tensor * src        = op->src[1];
    const int64_t       num_rows   = src->ne[1];
    const int64_t       num_tiles  = (num_rows + ROWS - 1) / ROWS;
    const int64_t       num_blocks = op->src[0]->ne[0] / BLOCK;
    Workspace           workspace(params, op);
    // Neighbours go to one thread, since rows of a tile share lines of the cache.
    const int64_t last = num_tiles * ROWS * (params->ith + 1) / params->nth;
    for (int64_t row = num_tiles * ROWS * params->ith / params->nth; row < last; ++row) {
        if (row < num_rows) {
            workspace.put_row(reinterpret_cast<const float *>(static_cast<const char *>(src->data) + row * src->nb[1]),
                              row);
        } else {
            workspace.clear_row(row);
        }
    }
    ggml_barrier(params->threadpool);

    thread_local bool is_configured = false;
    if (!is_configured) {
        configure_tiles();
        is_configured = true;
    }
    const int64_t                    num_panels = op->ne[0] / COLUMNS;  // of 16 rows of weights
    const int64_t                    end        = num_panels * (params->ith + 1) / params->nth;
    thread_local std::vector<int8_t> memory;
    memory.resize(num_blocks * COLUMNS * BLOCK + 64);
    auto * unpacked = reinterpret_cast<int8_t *>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    for (int64_t panel = num_panels * params->ith / params->nth; panel < end; ++panel) {
        const char * weights = static_cast<const char *>(op->src[0]->data) + panel * num_blocks * Type::SIZE;
        for (int64_t block = 0; Type::IS_PACKED && block < num_blocks; ++block) {
            Type::unpack(weights + block * Type::SIZE, unpacked + block * COLUMNS * BLOCK);
        }
        finish_stores();
        multiply_panel<Type>(workspace.numbers(), {weights, unpacked, num_blocks},
                             static_cast<float *>(op->data) + panel * COLUMNS,
                             static_cast<int64_t>(op->nb[1] / sizeof(float)), num_rows);
    }
}

}  // namespace

bool can_multiply(const ggml_tensor * op) {
    const ggml_tensor * weights = op->src[0];
    const ggml_tensor * numbers = op->src[1];
    const bool          has_type =
        weights->type == GGML_TYPE_Q4_0 || weights->type == GGML_TYPE_Q4_1 || weights->type == GGML_TYPE_Q8_0;
    return has_type && weights->buffer != nullptr && weights->buffer->buft == ggml_backend_amx_buffer_type() &&
           ggml_nrows(weights) == weights->ne[1] && ggml_nrows(numbers) == numbers->ne[1] &&
           numbers->type == GGML_TYPE_F32 && op->type == GGML_TYPE_F32 && numbers->nb[0] == sizeof(float);
}

bool pays_to_multiply(const ggml_tensor * op) { return op->src[1]->ne[1] >= LEAST_ROWS; }

size_t size_of_product(const ggml_tensor * op) { return Workspace::size(op); }

void multiply(const ggml_compute_params * params, ggml_tensor * op) {
    with_type(op->src[0]->type, [&](auto type) { multiply_with<decltype(type)>(params, op); });
}

}  // namespace dmr::cpu

#else

namespace dmr::cpu {

bool can_multiply(const ggml_tensor * /*op*/) { return false; }

bool pays_to_multiply(const ggml_tensor * /*op*/) { return false; }

size_t size_of_product(const ggml_tensor * /*op*/) { return 0; }

void multiply(const ggml_compute_params * /*params*/, ggml_tensor * /*op*/) {}

}  // namespace dmr::cpu

#endif
