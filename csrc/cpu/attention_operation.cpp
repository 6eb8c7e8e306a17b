#include "attention_operation.h"

#include "vec.h"

namespace dmr::cpu {
namespace {

constexpr uint16_t UNSEEN      = 0xFC00U;              // -inf in half precision
constexpr uint64_t FOUR_UNSEEN = 0xFC00FC00FC00FC00U;  // masks of four cells at once: most cells are another's

// The first cell from `begin` on that a row sees; `end` if there is none before it.
int64_t first_seen(const ggml_fp16_t * mask, int64_t begin, int64_t end) {
    uint64_t four = FOUR_UNSEEN;
    for (; begin + 4 <= end; begin += 4) {
        std::memcpy(&four, mask + begin, sizeof(four));
        if (four != FOUR_UNSEEN) {
            break;
        }
    }
    while (begin < end && mask[begin] == UNSEEN) {
        ++begin;
    }
    return begin;
}

void list_seen_in(const ggml_fp16_t * mask, int64_t num_cells, std::vector<int32_t> & seen) {
    seen.clear();
    for (int64_t cell = first_seen(mask, 0, num_cells); cell < num_cells;
         cell         = first_seen(mask, cell + 1, num_cells)) {
        seen.push_back(static_cast<int32_t>(cell));
    }
}

}  // namespace

void list_seen(const Attention & what, const Rows & rows, std::vector<int32_t> & seen) {
    if (rows.num_rows == 1) {
        list_seen_in(what.mask_of(rows.row), what.num_cells(), seen);
        return;
    }
    thread_local std::vector<ggml_fp16_t> by_any;
    by_any.assign(what.num_cells(), UNSEEN);
    for (int64_t row = rows.row; row < rows.row + rows.num_rows; ++row) {
        const ggml_fp16_t * mask = what.mask_of(row);
        for (int64_t cell = 0; cell < what.num_cells(); ++cell) {
            by_any[cell] = mask[cell] == UNSEEN ? by_any[cell] : 0;
        }
    }
    list_seen_in(by_any.data(), what.num_cells(), seen);
}

void unpack(const ggml_tensor * tensor, const char * row, float * target) {
    if (tensor->type == GGML_TYPE_F16) {
        ggml_cpu_fp16_to_fp32(reinterpret_cast<const ggml_fp16_t *>(row), target, tensor->ne[0]);
    } else if (tensor->type == GGML_TYPE_F32) {
        std::memcpy(target, row, tensor->ne[0] * sizeof(float));
    } else {
        ggml_get_type_traits(tensor->type)->to_float(row, target, tensor->ne[0]);
    }
}

void finish(const Attention & what, int64_t row, int64_t head, Softmax softmax, float * sum) {
    const int num_values = static_cast<int>(what.v->ne[0]);
    if (what.sinks != nullptr) {  // a product that every row has, and that brings no value
        const auto shares = softmax.add(static_cast<const float *>(what.sinks->data)[head]);
        ggml_vec_scale_f32(num_values, sum, shares.of_old);
    }
    ggml_vec_scale_f32(num_values, sum, softmax.sum == 0.0F ? 0.0F : 1.0F / softmax.sum);
    const ggml_tensor * result = what.result;
    std::memcpy(static_cast<char *>(result->data) + (head + row * result->ne[1]) * result->nb[1], sum, result->nb[1]);
}

}  // namespace dmr::cpu
