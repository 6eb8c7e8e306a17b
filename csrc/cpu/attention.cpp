#include "attention.h"

#include <atomic>

#include "attention_operation.h"
#include "ggml-backend-impl.h"
#include "traits.h"

namespace dmr::cpu {
namespace {

std::atomic<bool>    is_used{false};
std::atomic<int64_t> num_computed{0};

// Whether ggml goes over the cells row by row, and not in pieces for each thread, as it does for a single row.
bool goes_by_rows(const Attention & what) {
    const auto * k       = ggml_get_type_traits_cpu(what.k->type);
    const bool   has_dot = k->vec_dot != nullptr && ggml_get_type_traits_cpu(k->vec_dot_type)->from_float != nullptr;
    return has_dot && what.v->type == GGML_TYPE_F16 && what.num_rows() > 1 && !what.is_tiled();
}

// Sinks behind tiles are rounded in a way of their own, so they are left to ggml.
bool goes_by_tiles(const Attention & what) { return what.is_tiled() && what.sinks == nullptr; }

class OwnAttention : public ggml::cpu::tensor_traits, public ggml::cpu::extra_buffer_type {
  public:
    bool supports_op(ggml_backend_dev_t /*device*/, const ggml_tensor * /*op*/) override {
        return false;  // nothing is kept in buffers of this type
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        return op->op == GGML_OP_FLASH_ATTN_EXT && is_used.load(std::memory_order_relaxed) ? this : nullptr;
    }

    bool work_size(int /*num_threads*/, const ggml_tensor * /*op*/, size_t & /*size*/) override {
        return false;  // as much as ggml's
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const Attention what(op);
        if (params->use_ref || !what.is_plain()) {
            return false;
        }
        if (goes_by_rows(what)) {
            attend_by_rows(params, what);
        } else if (goes_by_tiles(what)) {
            attend_by_tiles(params, what);
        } else {
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

    static OwnAttention             attention;
    static ggml_backend_buffer_type type{};
    type.iface.get_name = [](ggml_backend_buffer_type_t /*type*/) { return "dmr"; };
    type.device         = device;
    type.context        = static_cast<ggml::cpu::extra_buffer_type *>(&attention);
    ggml_backend_cpu_get_extra_buffer_types().push_back(&type);
}

}  // namespace
}  // namespace dmr::cpu

extern "C" void dmr_use_own_attention(int wanted) {
    static const bool is_registered = (dmr::cpu::register_once(), true);
    dmr::cpu::is_used.store(is_registered && wanted != 0);
}

extern "C" int64_t dmr_num_own_attentions(void) { return dmr::cpu::num_computed.load(std::memory_order_relaxed); }
