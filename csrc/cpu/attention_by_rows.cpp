// Few rows, as when several sequences generate: ggml looks at the mask of each cell for each row and each head. Here
// the cells that a row sees are listed once for all heads, in passing over whole groups of those that it does not. The
// arithmetic, in its order, is that of ggml_compute_forward_flash_attn_ext_f16_one_chunk (softmax as one goes along,
// see https://arxiv.org/abs/2112.05682).

#include <vector>

#include "attention_operation.h"
#include "vec.h"

namespace dmr::cpu {
namespace {

constexpr int64_t ROWS_A_THREAD = 4;  // from so many on, threads take whole rows; else a row's heads are parts too

// The cells that a row sees, in order.
void list_seen(const ggml_fp16_t * mask, int64_t num_cells, std::vector<int32_t> & seen) {
    seen.clear();
    int64_t cell = 0;
    for (; cell + 4 <= num_cells; cell += 4) {
        uint64_t four;
        std::memcpy(&four, mask + cell, sizeof(four));
        if (four == FOUR_UNSEEN) {
            continue;
        }
        for (int64_t each = cell; each < cell + 4; ++each) {
            if (mask[each] != UNSEEN) {
                seen.push_back(static_cast<int32_t>(each));
            }
        }
    }
    for (; cell < num_cells; ++cell) {
        if (mask[cell] != UNSEEN) {
            seen.push_back(static_cast<int32_t>(cell));
        }
    }
}

// Memory of one thread, kept from one call to the next.
struct Scratch {
    std::vector<int32_t>     seen;
    std::vector<char>        query;  // in the type that is multiplied with keys
    std::vector<ggml_fp16_t> sum;
    std::vector<float>       value;
};

void attend(const Attention & what, int64_t row, int64_t head, Scratch & scratch, ggml_tensor * dst) {
    const int    num_keys   = static_cast<int>(what.k->ne[0]);
    const int    num_values = static_cast<int>(what.v->ne[0]);
    const auto * type       = ggml_get_type_traits_cpu(what.k->type);
    const auto * bias       = what.mask_of(row);
    const char * keys       = what.head_of(what.k, head);
    const char * values     = what.head_of(what.v, head);
    const float  scale      = what.softcap != 0 ? what.scale / what.softcap : what.scale;

    scratch.query.resize(num_keys * sizeof(float));
    scratch.sum.assign(num_values, 0);
    scratch.value.resize(num_values);
    void *        query = scratch.query.data();
    ggml_fp16_t * sum16 = scratch.sum.data();
    float *       sum   = scratch.value.data();
    ggml_get_type_traits_cpu(type->vec_dot_type)
        ->from_float(reinterpret_cast<const float *>(what.head_of(what.q, head) + row * what.q->nb[1]), query,
                     num_keys);

    float S = 0.0F;       // of the weights
    float M = -INFINITY;  // the largest product so far
    for (const int32_t cell : scratch.seen) {
        float s;
        type->vec_dot(num_keys, &s, 0, keys + cell * what.k->nb[1], 0, query, 0, 1);
        s = s * scale;
        if (what.softcap != 0.0F) {
            s = what.softcap * tanhf(s);
        }
        s += GGML_CPU_FP16_TO_FP32(bias[cell]);

        const float before = M;
        float       ms     = 1.0F;
        float       vs     = 1.0F;
        if (s > M) {
            M  = s;
            ms = expf(before - M);
            ggml_vec_scale_f16(num_values, sum16, ms);
        } else {
            vs = expf(s - M);
        }
        ggml_vec_mad_f16(num_values, sum16, reinterpret_cast<const ggml_fp16_t *>(values + cell * what.v->nb[1]), vs);
        S = S * ms + vs;
    }

    for (int i = 0; i < num_values; ++i) {
        sum[i] = GGML_CPU_FP16_TO_FP32(sum16[i]);
    }
    if (what.sinks != nullptr) {
        const float s  = static_cast<const float *>(what.sinks->data)[head];
        float       ms = 1.0F;
        float       vs = 1.0F;
        if (s > M) {
            ms = expf(M - s);
            M  = s;
            ggml_vec_scale_f32(num_values, sum, ms);
        } else {
            vs = expf(s - M);
        }
        S = S * ms + vs;
    }
    ggml_vec_scale_f32(num_values, sum, S == 0.0F ? 0.0F : 1.0F / S);
    std::memcpy(static_cast<char *>(dst->data) + (head + row * dst->ne[1]) * dst->nb[1], sum, dst->nb[1]);
}

}  // namespace

void attend_by_rows(const ggml_compute_params * params, const Attention & what, ggml_tensor * dst) {
    thread_local Scratch scratch;
    const int64_t        num_rows   = what.num_rows();
    const int64_t        num_heads  = what.num_heads();
    const int64_t        num_groups = num_rows >= ROWS_A_THREAD * params->nth ? 1 : what.k->ne[2];
    const int64_t        group      = num_heads / num_groups;

    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);
    for (int64_t part = params->ith; part < num_rows * num_groups;
         part         = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const int64_t row   = part / num_groups;
        const int64_t first = part % num_groups * group;
        list_seen(what.mask_of(row), what.k->ne[1], scratch.seen);
        for (int64_t head = first; head < first + group; ++head) {
            attend(what, row, head, scratch, dst);
        }
    }
}

}  // namespace dmr::cpu
