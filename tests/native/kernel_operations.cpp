// Products of quantized weights and several rows of numbers, and GELU, in our way and in ggml's: all have to be equal
// to the last bit. Where the processor has no AMX there are no products to compare, which the last line tells.

#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/kernels.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace {

// With 32 numbers ggml adds to what nobody has set, so there are no such rows here.
struct Case {
    ggml_type type;
    int64_t   size;  // numbers of a row
    int64_t   num_weights;
    int64_t   num_rows;
    int       num_threads;
};

ggml_backend_buffer_type_t amx() {
    auto * reg  = ggml_backend_cpu_reg();
    auto   list = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts"));
    for (auto * type = list(ggml_backend_reg_dev_get(reg, 0)); type != nullptr && *type != nullptr; ++type) {
        if (std::strcmp(ggml_backend_buft_name(*type), "AMX") == 0) {
            return *type;
        }
    }
    return nullptr;
}

// A block of zeros among them, and large numbers, which other ways to round would tell.
std::vector<float> random_numbers(int64_t num, std::mt19937 & random) {
    std::vector<float>              numbers(num);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < num; ++i) {
        numbers[i] = i / 32 % 7 == 3 ? 0.0F : normal(random) * (i % 50 == 0 ? 100.0F : 1.0F);
    }
    return numbers;
}

std::vector<float> product(const Case & what, bool is_own) {
    std::mt19937   random(5);
    ggml_context * context = ggml_init({ggml_tensor_overhead() * 8 + ggml_graph_overhead(), nullptr, true});
    auto *         weights = ggml_new_tensor_2d(context, what.type, what.size, what.num_weights);
    auto *         numbers = ggml_new_tensor_2d(context, GGML_TYPE_F32, what.size, what.num_rows);
    auto *         of      = ggml_backend_buft_alloc_buffer(amx(), ggml_backend_buft_get_alloc_size(amx(), weights));
    ggml_backend_buffer_set_usage(of, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    ggml_backend_tensor_alloc(of, weights, ggml_backend_buffer_get_base(of));
    auto * result  = ggml_mul_mat(context, weights, numbers);
    auto * backend = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(backend, what.num_threads);
    auto * others = ggml_backend_alloc_ctx_tensors(context, backend);

    const auto        values = random_numbers(what.size * what.num_weights, random);
    std::vector<char> packed(ggml_row_size(what.type, what.size) * what.num_weights);
    ggml_quantize_chunk(what.type, values.data(), packed.data(), 0, what.num_weights, what.size, nullptr);
    ggml_backend_tensor_set(weights, packed.data(), 0, packed.size());
    const auto rows = random_numbers(what.size * what.num_rows, random);
    ggml_backend_tensor_set(numbers, rows.data(), 0, rows.size() * sizeof(float));

    auto * graph = ggml_new_graph_custom(context, 8, false);
    ggml_build_forward_expand(graph, result);
    dmr_use_own_kernels(is_own ? 1 : 0);
    ggml_backend_graph_compute(backend, graph);
    std::vector<float> answer(ggml_nelements(result));
    ggml_backend_tensor_get(result, answer.data(), 0, ggml_nbytes(result));
    ggml_backend_buffer_free(others);
    ggml_backend_buffer_free(of);
    ggml_backend_free(backend);
    ggml_free(context);
    return answer;
}

bool is_right(const Case & what) {
    const int64_t before = dmr_num_own_operations();
    const auto    own    = product(what, true);
    const bool    is_own = dmr_num_own_operations() == before + 1;
    const auto    theirs = product(what, false);
    const bool    equal  = std::memcmp(own.data(), theirs.data(), own.size() * sizeof(float)) == 0;
    if (equal && is_own == (what.num_rows > 16)) {
        return true;
    }
    std::printf("%s: %s, %d numbers, %d weights, %d rows, %d threads\n",
                equal ? "not computed as it should be" : "not equal", ggml_type_name(what.type),
                static_cast<int>(what.size), static_cast<int>(what.num_weights), static_cast<int>(what.num_rows),
                what.num_threads);
    return false;
}

std::vector<float> gelu(std::vector<float> numbers, bool is_own, int num_threads) {
    const auto     size = static_cast<int64_t>(numbers.size());
    ggml_context * context =
        ggml_init({ggml_tensor_overhead() * 8 + 4 * numbers.size() * sizeof(float) + (1U << 20U), nullptr, false});
    auto * from = ggml_new_tensor_1d(context, GGML_TYPE_F32, size);
    std::memcpy(from->data, numbers.data(), ggml_nbytes(from));
    auto * result = ggml_gelu(context, from);
    auto * graph  = ggml_new_graph_custom(context, 8, false);
    ggml_build_forward_expand(graph, result);
    dmr_use_own_kernels(is_own ? 1 : 0);
    ggml_graph_compute_with_ctx(context, graph, num_threads);
    std::memcpy(numbers.data(), result->data, ggml_nbytes(result));
    ggml_free(context);
    return numbers;
}

// All numbers of half precision but those that are none, numbers between them, and a length that no register divides.
bool is_gelu_right() {
    std::vector<float> numbers;
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
        const auto half = static_cast<ggml_fp16_t>(bits);
        if ((bits & 0x7C00U) != 0x7C00U) {
            numbers.push_back(ggml_fp16_to_fp32(half));
            numbers.push_back(ggml_fp16_to_fp32(half) * 1.0003F);
        }
    }
    numbers.insert(numbers.end(), {10.0F, -10.0F, 9.9999F, -9.9999F, 1e30F, -1e30F, 0.3F});
    for (const int num_threads : {1, 2}) {
        const int64_t before = dmr_num_own_operations();
        const auto    own    = gelu(numbers, true, num_threads);
        const bool    is_own = dmr_num_own_operations() == before + 1;
        const auto    theirs = gelu(numbers, false, num_threads);
        if (is_own != (ggml_cpu_has_avx512() != 0) ||
            std::memcmp(own.data(), theirs.data(), own.size() * sizeof(float)) != 0) {
            std::printf("GELU is not equal, or not ours\n");
            return false;
        }
    }
    return true;
}

}  // namespace

int main() {
    ggml_time_init();
    ggml_log_set([](ggml_log_level /*level*/, const char * /*line*/, void * /*data*/) {}, nullptr);
    ggml_cpu_init();
    int num_wrong = is_gelu_right() ? 0 : 1;
    if (amx() == nullptr) {
        std::printf("no AMX\n");
        return num_wrong;
    }
    int num = 0;
    for (const ggml_type type : {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q8_0}) {
        for (const int64_t size : {64, 576, 1056}) {
            for (const int64_t num_weights : {32, 96, 352}) {
                for (const int64_t num_rows : {2, 16, 17, 20, 24, 25, 31, 32, 33, 64, 100}) {
                    for (const int num_threads : {1, 2, 3}) {
                        num_wrong += is_right({type, size, num_weights, num_rows, num_threads}) ? 0 : 1;
                        ++num;
                    }
                }
            }
        }
    }
    std::printf("%d of %d are wrong\n", num_wrong, num);
    return num_wrong == 0 ? 0 : 1;
}
