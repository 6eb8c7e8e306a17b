// Few rows, as when several sequences generate: ggml looks at the mask of each cell for each row and each head. Here
// the cells that a row sees are listed once for all heads. The numbers are worked out in the order of
// ggml_compute_forward_flash_attn_ext_f16_one_chunk.

#include <vector>

#include "attention_operation.h"
#include "vec.h"

namespace dmr::cpu {
namespace {

constexpr int64_t ROWS_A_THREAD = 4;  // from so many on, threads take whole rows; else a row's heads are parts too

// Memory of one thread, kept from one call to the next.
struct Scratch {
    std::vector<int32_t>     seen;   // cells, in order
    std::vector<char>        query;  // in the type that is multiplied with keys
    std::vector<ggml_fp16_t> sum;
    std::vector<float>       answer;
};

void list_seen(const ggml_fp16_t * mask, int64_t num_cells, std::vector<int32_t> & seen) {
    seen.clear();
    for (int64_t cell = first_seen(mask, 0, num_cells); cell < num_cells;
         cell         = first_seen(mask, cell + 1, num_cells)) {
        seen.push_back(static_cast<int32_t>(cell));
    }
}

void attend(const Attention & what, int64_t row, int64_t head, Scratch & scratch) {
    const int    num_keys   = static_cast<int>(what.k->ne[0]);
    const int    num_values = static_cast<int>(what.v->ne[0]);
    const auto * key_type   = ggml_get_type_traits_cpu(what.k->type);
    const auto * bias       = what.mask_of(row);
    const char * keys       = what.head_of(what.k, head);
    const char * values     = what.head_of(what.v, head);

    scratch.query.resize(num_keys * sizeof(float));
    scratch.sum.assign(num_values, 0);
    scratch.answer.resize(num_values);
    ggml_get_type_traits_cpu(key_type->vec_dot_type)
        ->from_float(what.query_of(row, head), scratch.query.data(), num_keys);

    Softmax softmax;
    for (const int32_t cell : scratch.seen) {
        float product;
        key_type->vec_dot(num_keys, &product, 0, keys + cell * what.k->nb[1], 0, scratch.query.data(), 0, 1);
        product = product * what.scale;
        if (what.softcap != 0.0F) {
            product = what.softcap * tanhf(product);
        }
        product += GGML_CPU_FP16_TO_FP32(bias[cell]);

        const auto shares = softmax.add(product);
        if (shares.of_old != 1.0F) {
            ggml_vec_scale_f16(num_values, scratch.sum.data(), shares.of_old);
        }
        ggml_vec_mad_f16(num_values, scratch.sum.data(),
                         reinterpret_cast<const ggml_fp16_t *>(values + cell * what.v->nb[1]), shares.of_new);
    }
    for (int i = 0; i < num_values; ++i) {
        scratch.answer[i] = GGML_CPU_FP16_TO_FP32(scratch.sum[i]);
    }
    finish(what, row, head, softmax, scratch.answer.data());
}

}  // namespace

void attend_by_rows(const ggml_compute_params * params, const Attention & what) {
    thread_local Scratch scratch;
    const bool           takes_rows = what.num_rows() >= ROWS_A_THREAD * params->nth;
    const int64_t        num_heads  = takes_rows ? what.num_heads() : what.num_sharing();  // of a part
    const int64_t        num_groups = what.num_heads() / num_heads;

    share_out(params, what.num_rows() * num_groups, [&](int64_t part) {
        const int64_t row   = part / num_groups;
        const int64_t first = part % num_groups * num_heads;
        list_seen(what.mask_of(row), what.num_cells(), scratch.seen);
        for (int64_t head = first; head < first + num_heads; ++head) {
            attend(what, row, head, scratch);
        }
    });
}

}  // namespace dmr::cpu
