#include "norm.h"

#if defined(__AVX512F__)

#include <immintrin.h>

#include <cmath>
#include <cstring>

namespace dmr::cpu {
namespace {

constexpr int64_t LANES = 16;

template <typename Term> float sum_of(const float * numbers, int64_t num, Term term) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < num; i += LANES) {
        sum = _mm512_add_ps(sum, term(_mm512_loadu_ps(numbers + i)));
    }
    return _mm512_reduce_add_ps(sum);
}

void normalize(const float * from, float * to, int64_t num, float epsilon) {
    const auto   count    = static_cast<float>(num);
    const __m512 mean     = _mm512_set1_ps(sum_of(from, num, [](__m512 numbers) { return numbers; }) / count);
    const float  variance = sum_of(from, num,
                                   [&](__m512 numbers) {
                                      const __m512 apart = _mm512_sub_ps(numbers, mean);
                                      return _mm512_mul_ps(apart, apart);
                                   }) /
                            count;
    const __m512 scale    = _mm512_set1_ps(1.0F / std::sqrt(variance + epsilon));
    for (int64_t i = 0; i < num; i += LANES) {
        _mm512_storeu_ps(to + i, _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(from + i), mean), scale));
    }
}

}  // namespace

bool can_compute_norm(const ggml_tensor * op) {
    const ggml_tensor * src = op->src[0];
    return op->op == GGML_OP_NORM && src->type == GGML_TYPE_F32 && op->type == GGML_TYPE_F32 &&
           src->ne[0] % LANES == 0 && ggml_is_contiguous(src) && ggml_is_contiguous(op);
}

void compute_norm(const ggml_compute_params * params, ggml_tensor * op) {
    float epsilon;
    std::memcpy(&epsilon, op->op_params, sizeof(float));
    const int64_t num  = op->ne[0];
    const int64_t rows = ggml_nrows(op);
    const int64_t end  = rows * (params->ith + 1) / params->nth;
    for (int64_t row = rows * params->ith / params->nth; row < end; ++row) {
        normalize(static_cast<const float *>(op->src[0]->data) + row * num, static_cast<float *>(op->data) + row * num,
                  num, epsilon);
    }
}

}  // namespace dmr::cpu

#else

namespace dmr::cpu {

bool can_compute_norm(const ggml_tensor * /*op*/) { return false; }

void compute_norm(const ggml_compute_params * /*params*/, ggml_tensor * /*op*/) {}

}  // namespace dmr::cpu

#endif
