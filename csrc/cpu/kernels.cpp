#include "kernels.h"

#include <algorithm>
#include <atomic>

#include "attention_operation.h"
#include "gelu.h"
#include "ggml-backend-impl.h"
#include "matrix_product.h"
#include "traits.h"

namespace dmr::cpu {
namespace {

std::atomic<bool>    is_used{false};
std::atomic<int64_t> num_computed{0};

// All threads of a graph call this. False: it is ggml's.
bool compute(const ggml_compute_params * params, ggml_tensor * op) {
    if (op->op == GGML_OP_MUL_MAT) {
        multiply(params, op);
        return true;
    }
    if (op->op == GGML_OP_UNARY) {
        compute_gelu(params, op);
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
        const bool is_ours =
            op->op == GGML_OP_FLASH_ATTN_EXT || can_compute_gelu(op) || (op->op == GGML_OP_MUL_MAT && can_multiply(op));
        return is_ours && is_used.load(std::memory_order_relaxed) ? this : nullptr;
    }

    // False: as much as ggml's.
    bool work_size(int /*num_threads*/, const ggml_tensor * op, size_t & size) override {
        if (op->op != GGML_OP_MUL_MAT) {
            return false;
        }
        size = size_of_product(op);
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

extern "C" int64_t dmr_num_own_operations(void) { return dmr::cpu::num_computed.load(std::memory_order_relaxed); }
