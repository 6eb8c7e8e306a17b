// A row by itself, as when several sequences generate: ggml looks at the mask of each cell for each row and each head.
// Here the cells that a row sees are listed once for all heads. The numbers are worked out in the order of
// ggml_compute_forward_flash_attn_ext_f16_one_chunk.

#include "attention_operation.h"
#include "vec.h"

namespace dmr::cpu {
namespace {

// Memory of one thread, kept from one call to the next.
struct Scratch {
    std::vector<int32_t>     seen;   // cells, in order
    std::vector<char>        query;  // in the type that is multiplied with keys
    std::vector<ggml_fp16_t> halves;
    std::vector<float>       value;
    std::vector<float>       sum;
};

// What is added up of values: in halves, where values are halves.
class Sum {
  public:
    Sum(const ggml_tensor * values, Scratch & scratch)
        : values_(values), size_(static_cast<int>(values->ne[0])), scratch_(scratch) {
        scratch.halves.assign(size_, 0);
        scratch.value.resize(size_);
        scratch.sum.assign(size_, 0.0F);
    }

    void add(const char * value, Softmax::Shares shares) {
        if (values_->type == GGML_TYPE_F16) {
            if (shares.of_old != 1.0F) {
                ggml_vec_scale_f16(size_, scratch_.halves.data(), shares.of_old);
            }
            ggml_vec_mad_f16(size_, scratch_.halves.data(), reinterpret_cast<const ggml_fp16_t *>(value),
                             shares.of_new);
            return;
        }
        if (shares.of_old != 1.0F) {
            ggml_vec_scale_f32(size_, scratch_.sum.data(), shares.of_old);
        }
        unpack(values_, value, scratch_.value.data());
        ggml_vec_mad_f32(size_, scratch_.sum.data(), scratch_.value.data(), shares.of_new);
    }

    float * total() {
        if (values_->type == GGML_TYPE_F16) {
            for (int i = 0; i < size_; ++i) {
                scratch_.sum[i] = GGML_CPU_FP16_TO_FP32(scratch_.halves[i]);
            }
        }
        return scratch_.sum.data();
    }

  private:
    const ggml_tensor * values_;
    int                 size_;
    Scratch &           scratch_;
};

void attend(const Attention & what, int64_t row, int64_t head, Scratch & scratch) {
    const int    num_keys = static_cast<int>(what.k->ne[0]);
    const auto * key_type = ggml_get_type_traits_cpu(what.k->type);
    const auto * bias     = what.mask_of(row);
    const char * keys     = what.head_of(what.k, head);
    const char * values   = what.head_of(what.v, head);

    scratch.query.resize(num_keys * sizeof(float));
    ggml_get_type_traits_cpu(key_type->vec_dot_type)
        ->from_float(what.query_of(row, head), scratch.query.data(), num_keys);

    Softmax softmax;
    Sum     sum(what.v, scratch);
    for (const int32_t cell : scratch.seen) {
        float product;
        key_type->vec_dot(num_keys, &product, 0, keys + cell * what.k->nb[1], 0, scratch.query.data(), 0, 1);
        product = product * what.scale;
        if (what.softcap != 0.0F) {
            product = what.softcap * tanhf(product);
        }
        product += GGML_CPU_FP16_TO_FP32(bias[cell]);
        sum.add(values + cell * what.v->nb[1], softmax.add(product));
    }
    finish(what, row, head, softmax, sum.total());
}

}  // namespace

void attend_row(const Attention & what, int64_t row, int64_t first, int64_t num_heads) {
    thread_local Scratch scratch;
    list_seen(what, {row, 1}, scratch.seen);
    for (int64_t head = first; head < first + num_heads; ++head) {
        attend(what, row, head, scratch);
    }
}

}  // namespace dmr::cpu
