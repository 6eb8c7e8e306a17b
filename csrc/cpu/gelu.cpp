#include "gelu.h"

#include "simd-mappings.h"
#include "vec.h"

#if defined(__AVX512F__) && defined(GGML_GELU_FP16)

#include <immintrin.h>

#include <algorithm>

namespace dmr::cpu {
namespace {

constexpr int64_t LANES = 16;
constexpr float   FAR   = 10.0F;  // where it is 0 or the number itself

// The table is read two entries at a time, so its last one, which is not a number, gives way to another such.
__m512 gelu_of(__m512 numbers) {
    const __m512i places = _mm512_min_epi32(_mm512_cvtepu16_epi32(_mm512_cvtps_ph(numbers, _MM_FROUND_TO_NEAREST_INT)),
                                            _mm512_set1_epi32(0xFFFE));
    const __m512i halves = _mm512_i32gather_epi32(places, ggml_table_gelu_f16, sizeof(ggml_fp16_t));
    const __m512  result = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(halves));
    const auto    above  = _mm512_cmp_ps_mask(numbers, _mm512_set1_ps(FAR), _CMP_GE_OQ);
    const auto    inside = _mm512_knot(_mm512_cmp_ps_mask(numbers, _mm512_set1_ps(-FAR), _CMP_LE_OQ));
    return _mm512_maskz_mov_ps(inside, _mm512_mask_mov_ps(result, above, numbers));
}

}  // namespace

bool can_compute_gelu(const ggml_tensor * op) {
    return op->op == GGML_OP_UNARY && ggml_get_unary_op(op) == GGML_UNARY_OP_GELU &&
           op->src[0]->type == GGML_TYPE_F32 && op->type == GGML_TYPE_F32 && ggml_is_contiguous(op->src[0]) &&
           ggml_is_contiguous(op);
}

void compute_gelu(const ggml_compute_params * params, ggml_tensor * op) {
    const int64_t num  = ggml_nelements(op);
    const int64_t end  = num * (params->ith + 1) / params->nth;
    const auto *  from = static_cast<const float *>(op->src[0]->data);
    auto *        to   = static_cast<float *>(op->data);
    for (int64_t i = num * params->ith / params->nth; i < end; i += LANES) {
        const auto mask = static_cast<__mmask16>((1U << std::min(LANES, end - i)) - 1);
        _mm512_mask_storeu_ps(to + i, mask, gelu_of(_mm512_maskz_loadu_ps(mask, from + i)));
    }
}

}  // namespace dmr::cpu

#else

namespace dmr::cpu {

bool can_compute_gelu(const ggml_tensor * /*op*/) { return false; }

void compute_gelu(const ggml_compute_params * /*params*/, ggml_tensor * /*op*/) {}

}  // namespace dmr::cpu

#endif
