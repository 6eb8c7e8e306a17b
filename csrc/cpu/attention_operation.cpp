#include "attention_operation.h"

#include "vec.h"

namespace dmr::cpu {
namespace {

constexpr uint16_t UNSEEN      = 0xFC00U;              // -inf in half precision
constexpr uint64_t FOUR_UNSEEN = 0xFC00FC00FC00FC00U;  // masks of four cells at once: most cells are another's

}  // namespace

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
