#include "kernels.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>

#include "attention_operation.h"
#include "float_product.h"
#include "gelu.h"
#include "ggml-backend-impl.h"
#include "matrix_product.h"
#include "norm.h"
#include "traits.h"

namespace dmr::cpu {
namespace {

std::atomic<bool>    is_used{false};
std::atomic<int64_t> num_computed{0};

// Threads that multiply floats. Asked for each product by each thread, so without a lock.
class FloatThreads {
  public:
    bool add(const ggml_threadpool * threads) {
        const std::lock_guard lock(mutex_);
        const auto            place = std::find(threads_.begin(), threads_.end(), nullptr);
        if (place == threads_.end()) {
            return false;
        }
        *place = threads;
        end_   = std::max<size_t>(end_, place - threads_.begin() + 1);
        return true;
    }

    void remove(const ggml_threadpool * threads) {
        const std::lock_guard lock(mutex_);
        for (auto & each : threads_) {
            if (each == threads) {
                each = nullptr;
            }
        }
    }

    bool contains(const ggml_threadpool * threads) const {
        const auto end = threads_.begin() + static_cast<ptrdiff_t>(end_.load(std::memory_order_acquire));
        return std::find(threads_.begin(), end, threads) != end;
    }

  private:
    std::array<std::atomic<const ggml_threadpool *>, 64> threads_{};  // with gaps
    std::atomic<size_t>                                  end_{0};
    std::mutex                                           mutex_;  // who writes
};

FloatThreads float_threads;

// All threads of a graph call these. False: it is ggml's.
bool compute_product(const ggml_compute_params * params, ggml_tensor * op) {
    if (float_threads.contains(params->threadpool)) {
        multiply_floats(params, op);
        return true;
    }
    if (!pays_to_multiply(op)) {
        return false;
    }
    multiply(params, op);
    return true;
}

bool compute(const ggml_compute_params * params, ggml_tensor * op) {
    if (op->op == GGML_OP_MUL_MAT) {
        return compute_product(params, op);
    }
    if (op->op == GGML_OP_UNARY) {
        compute_gelu(params, op);
        return true;
    }
    if (op->op == GGML_OP_NORM) {
        if (!float_threads.contains(params->threadpool)) {
            return false;
        }
        compute_norm(params, op);
        return true;
    }
    const Attention what(op);
    if (!can_attend(what)) {
        return false;
    }
    attend(params, what);
    return true;
}

class OwnKernels : public ggml::cpu::tensor_traits, public ggml::cpu::extra_buffer_type {
  public:
    bool supports_op(ggml_backend_dev_t /*device*/, const ggml_tensor * /*op*/) override {
        return false;  // nothing is kept in buffers of this type
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        const bool is_ours = op->op == GGML_OP_FLASH_ATTN_EXT || can_compute_gelu(op) || can_compute_norm(op) ||
                             (op->op == GGML_OP_MUL_MAT && can_multiply(op));
        return is_ours && is_used.load(std::memory_order_relaxed) ? this : nullptr;
    }

    // False: as much as ggml's.
    bool work_size(int /*num_threads*/, const ggml_tensor * op, size_t & size) override {
        if (op->op != GGML_OP_MUL_MAT) {
            return false;
        }
        size = std::max(size_of_product(op), size_of_float_product(op));
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (params->use_ref || !compute(params, op)) {
            return false;
        }
        if (params->ith == 0) {
            num_computed.fetch_add(1, std::memory_order_relaxed);
        }
        return true;
    }
};

void register_once() {
    // What ggml tells others of its buffer types is fixed by the first question: they are not to know of this one.
    auto * reg    = ggml_backend_cpu_reg();
    auto * device = ggml_backend_reg_dev_get(reg, 0);
    auto   list   = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts"));
    list(device);

    static OwnKernels               kernels;
    static ggml_backend_buffer_type type{};
    type.iface.get_name = [](ggml_backend_buffer_type_t /*type*/) { return "dmr"; };
    type.device         = device;
    type.context        = static_cast<ggml::cpu::extra_buffer_type *>(&kernels);
    auto & types        = ggml_backend_cpu_get_extra_buffer_types();
    types.insert(types.begin(), &type);  // who comes first is asked first
}

}  // namespace
}  // namespace dmr::cpu

extern "C" void dmr_use_own_kernels(int wanted) {
    static const bool is_registered = (dmr::cpu::register_once(), true);
    dmr::cpu::is_used.store(is_registered && wanted != 0);
}

extern "C" int dmr_multiply_floats(const ggml_threadpool * threads, int is_wanted) {
    if (is_wanted == 0) {
        dmr::cpu::float_threads.remove(threads);
        return 0;
    }
    return dmr::cpu::has_float_products() && dmr::cpu::float_threads.add(threads) ? 1 : 0;
}

extern "C" int64_t dmr_num_own_operations(void) { return dmr::cpu::num_computed.load(std::memory_order_relaxed); }
