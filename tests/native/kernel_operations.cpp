// Products of quantized weights and several rows of numbers, and GELU, in our way and in ggml's: all have to be equal
// to the last bit. Products and norms as models for embeddings have them need not be, but have to be closer to what is
// exact. Where the processor has no AMX there are no products to compare, which the last line tells.

#include <algorithm>
#include <cmath>
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

enum class Way { theirs, own, floats };

// Threads that compute, and that multiply floats.
class Threads {
  public:
    Threads(int num, bool has_floats) {
        auto params = ggml_threadpool_params_default(num);
        pool_       = ggml_threadpool_new(&params);
        has_floats_ = has_floats && dmr_multiply_floats(pool_, 1) != 0;
    }

    ~Threads() {
        if (has_floats_) {
            dmr_multiply_floats(pool_, 0);
        }
        ggml_threadpool_free(pool_);
    }

    ggml_threadpool * pool() { return pool_; }
    bool              have_floats() const { return has_floats_; }

  private:
    ggml_threadpool * pool_;
    bool              has_floats_;
};

struct Operands {
    std::vector<float> weights;  // as they are after quantization
    std::vector<float> rows;
};

std::vector<float> product(const Case & what, Way way, Operands * operands = nullptr) {
    std::mt19937   random(5);
    Threads        threads(what.num_threads, way == Way::floats);
    ggml_context * context = ggml_init({ggml_tensor_overhead() * 8 + ggml_graph_overhead(), nullptr, true});
    auto *         weights = ggml_new_tensor_2d(context, what.type, what.size, what.num_weights);
    auto *         numbers = ggml_new_tensor_2d(context, GGML_TYPE_F32, what.size, what.num_rows);
    auto *         of      = ggml_backend_buft_alloc_buffer(amx(), ggml_backend_buft_get_alloc_size(amx(), weights));
    ggml_backend_buffer_set_usage(of, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    ggml_backend_tensor_alloc(of, weights, ggml_backend_buffer_get_base(of));
    auto * result  = ggml_mul_mat(context, weights, numbers);
    auto * backend = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(backend, what.num_threads);
    ggml_backend_cpu_set_threadpool(backend, threads.pool());
    auto * others = ggml_backend_alloc_ctx_tensors(context, backend);

    const auto        values = random_numbers(what.size * what.num_weights, random);
    std::vector<char> packed(ggml_row_size(what.type, what.size) * what.num_weights);
    ggml_quantize_chunk(what.type, values.data(), packed.data(), 0, what.num_weights, what.size, nullptr);
    ggml_backend_tensor_set(weights, packed.data(), 0, packed.size());
    const auto rows = random_numbers(what.size * what.num_rows, random);
    ggml_backend_tensor_set(numbers, rows.data(), 0, rows.size() * sizeof(float));
    if (operands != nullptr) {
        operands->weights.resize(values.size());
        ggml_get_type_traits(what.type)->to_float(packed.data(), operands->weights.data(),
                                                  static_cast<int64_t>(values.size()));
        operands->rows = rows;
    }

    auto * graph = ggml_new_graph_custom(context, 8, false);
    ggml_build_forward_expand(graph, result);
    dmr_use_own_kernels(way == Way::theirs ? 0 : 1);
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
    const auto    own    = product(what, Way::own);
    const bool    is_own = dmr_num_own_operations() == before + 1;
    const auto    theirs = product(what, Way::theirs);
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

// How far from what is exact, beside how large that is.
double error_of(const Case & what, const Operands & operands, const std::vector<float> & answer) {
    double error = 0.0;
    double size  = 0.0;
    for (int64_t row = 0; row < what.num_rows; ++row) {
        for (int64_t column = 0; column < what.num_weights; ++column) {
            double exact = 0.0;
            for (int64_t i = 0; i < what.size; ++i) {
                exact += static_cast<double>(operands.weights[column * what.size + i]) *
                         static_cast<double>(operands.rows[row * what.size + i]);
            }
            error += std::pow(exact - answer[row * what.num_weights + column], 2);
            size += exact * exact;
        }
    }
    return std::sqrt(error / size);
}

// Nearer than ggml's, and what a row gets does not depend on how many there are.
bool is_float_product_right(const Case & what) {
    Operands   operands;
    const auto floats       = product(what, Way::floats, &operands);
    const auto theirs       = product(what, Way::theirs);
    Case       more         = what;
    more.num_rows           = what.num_rows + 13;
    more.num_threads        = 4 - what.num_threads;
    const auto among        = product(more, Way::floats);
    const bool same         = std::memcmp(floats.data(), among.data(), floats.size() * sizeof(float)) == 0;
    const auto error        = error_of(what, operands, floats);
    const auto theirs_error = error_of(what, operands, theirs);
    if (same && error < 0.01 && error < 0.8 * theirs_error) {
        return true;
    }
    std::printf("floats are %s: %s, %d numbers, %d weights, %d rows, %d threads: error %g, ggml's %g\n",
                same ? "not closer" : "not the same among more", ggml_type_name(what.type), static_cast<int>(what.size),
                static_cast<int>(what.num_weights), static_cast<int>(what.num_rows), what.num_threads, error,
                theirs_error);
    return false;
}

std::vector<float> norm(const std::vector<float> & numbers, int64_t size, Way way, int num_threads) {
    Threads        threads(num_threads, way == Way::floats);
    ggml_context * context =
        ggml_init({ggml_tensor_overhead() * 8 + 4 * numbers.size() * sizeof(float) + (1U << 20U), nullptr, false});
    auto * from = ggml_new_tensor_2d(context, GGML_TYPE_F32, size, static_cast<int64_t>(numbers.size()) / size);
    std::memcpy(from->data, numbers.data(), ggml_nbytes(from));
    auto * result = ggml_norm(context, from, 1e-5F);
    auto * graph  = ggml_new_graph_custom(context, 8, false);
    ggml_build_forward_expand(graph, result);
    dmr_use_own_kernels(way == Way::theirs ? 0 : 1);
    auto                 plan = ggml_graph_plan(graph, num_threads, threads.pool());
    std::vector<uint8_t> work(plan.work_size + 1);
    plan.work_data = work.data();
    ggml_graph_compute(graph, &plan);
    std::vector<float> answer(numbers.size());
    std::memcpy(answer.data(), result->data, ggml_nbytes(result));
    ggml_free(context);
    return answer;
}

// Ours only where floats are multiplied; there nearly ggml's.
bool is_norm_right(int64_t size, int64_t num_rows, int num_threads) {
    std::mt19937 random(7);
    auto         numbers = random_numbers(size * num_rows, random);
    std::fill(numbers.begin(), numbers.begin() + size, 3.0F);  // a row without any difference
    const auto    theirs = norm(numbers, size, Way::theirs, num_threads);
    const auto    own    = norm(numbers, size, Way::own, num_threads);
    const int64_t before = dmr_num_own_operations();
    const auto    floats = norm(numbers, size, Way::floats, num_threads);
    const bool    is_own = dmr_num_own_operations() == before + 1;
    double        most   = 0.0;
    for (size_t i = 0; i < theirs.size(); ++i) {
        most = std::max(most, static_cast<double>(std::fabs(theirs[i] - floats[i])));
    }
    const bool same = std::memcmp(own.data(), theirs.data(), own.size() * sizeof(float)) == 0;
    if (same && most < 1e-4 && is_own == (Threads(1, true).have_floats() && size % 16 == 0)) {
        return true;
    }
    std::printf("the norm of %d numbers, %d rows, %d threads: apart %g, %s, %s\n", static_cast<int>(size),
                static_cast<int>(num_rows), num_threads, most, same ? "same" : "not the same for text",
                is_own ? "ours" : "ggml's");
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
    for (const int64_t size : {16, 40, 384}) {
        for (const int num_threads : {1, 2, 3}) {
            num_wrong += is_norm_right(size, 13, num_threads) ? 0 : 1;
        }
    }
    if (amx() == nullptr) {
        std::printf("no AMX\n");
        return num_wrong;
    }
    int num = 0;
    for (const ggml_type type : {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q8_0}) {
        for (const int64_t size : {64, 576, 1056}) {
            for (const int64_t num_weights : {32, 352}) {
                for (const int64_t num_rows : {2, 16, 17, 20, 24, 25, 33, 100}) {
                    for (const int num_threads : {1, 2, 3}) {
                        num_wrong += is_right({type, size, num_weights, num_rows, num_threads}) ? 0 : 1;
                        ++num;
                    }
                }
            }
        }
    }
    if (!Threads(1, true).have_floats()) {
        std::printf("%d of %d are wrong, and no AMX for floats\n", num_wrong, num);
        return num_wrong == 0 ? 0 : 1;
    }
    for (const ggml_type type : {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q8_0}) {
        for (const int64_t size : {64, 1056}) {
            for (const int64_t num_rows : {1, 16, 33, 200}) {
                for (const int num_threads : {1, 2}) {
                    num_wrong += is_float_product_right({type, size, 96, num_rows, num_threads}) ? 0 : 1;
                    ++num;
                }
            }
        }
    }
    std::printf("%d of %d are wrong\n", num_wrong, num);
    return num_wrong == 0 ? 0 : 1;
}
