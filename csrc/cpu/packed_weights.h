#pragma once

// Quantized weights as ggml lays them out for AMX.

#if defined(__AMX_INT8__) && defined(__AVX512VNNI__)

#include <immintrin.h>

#include <cstdint>

#include "ggml.h"

#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"

namespace dmr::cpu {

constexpr int64_t COLUMNS = 16;  // of a tile: rows of weights
constexpr int64_t BLOCK   = 32;  // numbers of a row that have one scale

// How ggml packs 32 numbers of each of 16 rows of weights: values first, in fours, then a scale of each row.
struct PackedQ4 {
    static constexpr size_t SIZE_OF_VALUES = COLUMNS * BLOCK / 2;

    static void unpack(const char * packed, int8_t * values, int8_t offset) {
        const __m512i low  = _mm512_set1_epi8(0xF);
        const __m512i less = _mm512_set1_epi8(offset);
        for (int64_t begin = 0; begin < COLUMNS * BLOCK; begin += 128) {
            const __m512i two = _mm512_loadu_si512(packed + begin / 2);
            _mm512_store_si512(values + begin, _mm512_sub_epi8(_mm512_and_si512(two, low), less));
            _mm512_store_si512(values + begin + 64,
                               _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(two, 4), low), less));
        }
    }
};

struct Q4_0 : PackedQ4 {
    static constexpr size_t SIZE      = COLUMNS * sizeof(block_q4_0);
    static constexpr bool   HAS_LEAST = false;
    static constexpr bool   IS_PACKED = true;

    static void unpack(const char * packed, int8_t * values) { PackedQ4::unpack(packed, values, 8); }
};

struct Q4_1 : PackedQ4 {
    static constexpr size_t SIZE      = COLUMNS * sizeof(block_q4_1);
    static constexpr bool   HAS_LEAST = true;  // a least weight of each row behind the scales
    static constexpr bool   IS_PACKED = true;

    static void unpack(const char * packed, int8_t * values) { PackedQ4::unpack(packed, values, 0); }
};

struct Q8_0 {
    static constexpr size_t SIZE_OF_VALUES = COLUMNS * BLOCK;
    static constexpr size_t SIZE           = COLUMNS * (sizeof(block_q8_0) + sizeof(int32_t));
    static constexpr bool   HAS_LEAST      = false;
    static constexpr bool   IS_PACKED      = false;

    static void unpack(const char * /*packed*/, int8_t * /*values*/) {}
};

template <typename Work> void with_type(ggml_type type, Work work) {
    switch (type) {
        case GGML_TYPE_Q4_0: work(Q4_0{}); return;
        case GGML_TYPE_Q4_1: work(Q4_1{}); return;
        default:             work(Q8_0{}); return;
    }
}

inline __m512 halves_at(const char * place) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(place)));
}

}  // namespace dmr::cpu

#endif
