// Attention of several sequences over one memory. To the last bit what ggml computes, without the work that comes of
// looking at everybody's cells:
//
// - Few rows, as when several sequences generate: ggml looks at each cell's mask for each row and each head. Here the
//   cells that a row sees are listed once for all heads, in passing over whole groups of those that it does not see.
// - Many rows, as in a prompt: ggml cuts rows and heads into parts for its threads wherever that falls, so tiles of 64
//   rows are begun twice. Here a thread takes whole heads, where that is fewer tiles.
//
// The arithmetic of the first follows ggml_compute_forward_flash_attn_ext_f16_one_chunk (online softmax, see
// https://arxiv.org/abs/2112.05682), in its order; the second calls ggml's own function for one head at a time.

#include "attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "common.h"
#include "ggml-backend-impl.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ops.h"
#include "traits.h"
#include "vec.h"

namespace {

constexpr int64_t  TILE          = ggml_fa_tile_config::Q;
constexpr uint64_t FOUR_UNSEEN   = 0xFC00FC00FC00FC00U;  // -inf in half precision, four times
constexpr uint16_t UNSEEN        = 0xFC00U;
constexpr int64_t  ROWS_A_THREAD = 4;  // from so many on, threads take whole rows; else a row's heads are parts too

std::atomic<bool>    is_used{false};
std::atomic<int64_t> num_computed{0};

struct Attention {
    const ggml_tensor * q;     // [size of a head, rows, heads]
    const ggml_tensor * k;     // [size of a head, cells, heads of keys]
    const ggml_tensor * v;     // [size of a value, cells, heads of values]
    const ggml_tensor * mask;  // [cells, rows]
    const ggml_tensor * sinks;
    float               scale;
    float               max_bias;
    float               softcap;

    explicit Attention(const ggml_tensor * op)
        : q(op->src[0]), k(op->src[1]), v(op->src[2]), mask(op->src[3]), sinks(op->src[4]) {
        std::memcpy(&scale, op->op_params, sizeof(float));
        std::memcpy(&max_bias, op->op_params + 1, sizeof(float));
        std::memcpy(&softcap, op->op_params + 2, sizeof(float));
    }

    const ggml_fp16_t * mask_of(int64_t row) const {
        return reinterpret_cast<const ggml_fp16_t *>(static_cast<const char *>(mask->data) + row * mask->nb[1]);
    }

    // Of `tensor`, what belongs to a head of queries: several of them share a head of keys and values.
    const char * head_of(const ggml_tensor * tensor, int64_t head) const {
        return static_cast<const char *>(tensor->data) + head / (num_heads() / tensor->ne[2]) * tensor->nb[2];
    }

    int64_t num_rows() const { return q->ne[1]; }
    int64_t num_heads() const { return q->ne[2]; }

    // One mask for all heads, and one memory for all sequences.
    bool is_plain() const {
        return q->type == GGML_TYPE_F32 && q->ne[3] == 1 && k->ne[3] == 1 && v->ne[3] == 1 && mask != nullptr &&
               mask->type == GGML_TYPE_F16 && mask->ne[2] == 1 && mask->ne[3] == 1 && max_bias == 0.0F;
    }

    // Where ggml takes tiles.
    bool is_tiled() const {
        const bool is_float = k->type == GGML_TYPE_F16 || k->type == GGML_TYPE_F32;
        return is_float && k->type == v->type && num_rows() >= TILE;
    }
};

// Whether ggml goes over the cells row by row, and not in pieces for each thread, as it does for a single row.
bool goes_by_rows(const Attention & what) {
    const auto * k       = ggml_get_type_traits_cpu(what.k->type);
    const bool   has_dot = k->vec_dot != nullptr && ggml_get_type_traits_cpu(k->vec_dot_type)->from_float != nullptr;
    return has_dot && what.v->type == GGML_TYPE_F16 && what.num_rows() > 1 && !what.is_tiled();
}

// Tiles that the busiest thread begins, as ggml shares out rows and heads.
int64_t num_tiles_by_parts(int64_t num_rows, int64_t num_heads, int num_threads) {
    const int64_t num_all = num_rows * num_heads;
    const int64_t size    = (num_all + 4 * num_threads - 1) / (4 * num_threads);
    int64_t       num     = (num_all + size - 1) / size;
    if (num_threads == 1 || num < num_threads) {
        num = num_threads;
    }
    const int64_t part      = (num_all + num - 1) / num;
    int64_t       num_tiles = 0;
    for (int64_t begin = 0; begin < num_all; begin += part) {
        const int64_t end = std::min(begin + part, num_all);
        for (int64_t row = begin; row < end; ++num_tiles) {
            row += std::min({TILE, end - row, num_rows - row % num_rows});
        }
    }
    return (num_tiles + num_threads - 1) / num_threads;
}

int64_t num_tiles_by_heads(int64_t num_rows, int64_t num_heads, int num_threads) {
    return (num_heads + num_threads - 1) / num_threads * ((num_rows + TILE - 1) / TILE);
}

bool is_better_by_heads(const Attention & what, int num_threads) {
    return num_tiles_by_heads(what.num_rows(), what.num_heads(), num_threads) <
           num_tiles_by_parts(what.num_rows(), what.num_heads(), num_threads);
}

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

void compute_by_rows(const ggml_compute_params * params, const Attention & what, ggml_tensor * dst) {
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

ggml_tensor one_head_of(const ggml_tensor * tensor, int64_t head) {
    ggml_tensor part = *tensor;
    part.ne[2]       = 1;
    part.data        = static_cast<char *>(tensor->data) + head * tensor->nb[2];
    return part;
}

// In turns in which each thread has one head, or none: ggml's function has a barrier at its beginning.
void compute_by_heads(const ggml_compute_params * params, const Attention & what, ggml_tensor * dst) {
    const int64_t num_heads = what.num_heads();
    // ggml's own place of each thread in the memory for work, see ggml_compute_forward_flash_attn_ext_tiled
    const int64_t       place = TILE * what.k->ne[0] + 2 * TILE * ggml_fa_tile_config::KV + TILE * what.v->ne[0] +
                                ggml_fa_tile_config::KV * (what.v->ne[0] + what.k->ne[0]) + CACHE_LINE_SIZE_F32;
    ggml_compute_params alone = *params;
    alone.ith                 = 0;
    alone.nth                 = 1;
    alone.wdata               = static_cast<float *>(params->wdata) + params->ith * place;

    for (int64_t first = 0; first < num_heads; first += params->nth) {
        const int64_t head = first + params->ith;
        if (head >= num_heads) {
            ggml_barrier(params->threadpool);
            continue;
        }
        ggml_tensor q    = one_head_of(what.q, head);
        ggml_tensor k    = one_head_of(what.k, head / (num_heads / what.k->ne[2]));
        ggml_tensor v    = one_head_of(what.v, head / (num_heads / what.v->ne[2]));
        ggml_tensor part = *dst;
        part.data        = static_cast<char *>(dst->data) + head * dst->nb[1];
        part.src[0]      = &q;
        part.src[1]      = &k;
        part.src[2]      = &v;
        ggml_compute_forward_flash_attn_ext(&alone, &part);
    }
}

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
            compute_by_rows(params, what, op);
        } else if (what.is_tiled() && what.sinks == nullptr && is_better_by_heads(what, params->nth)) {
            compute_by_heads(params, what, op);
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

extern "C" void dmr_use_own_attention(int wanted) {
    static const bool is_registered = (register_once(), true);
    is_used.store(is_registered && wanted != 0);
}

extern "C" int64_t dmr_num_own_attentions(void) { return num_computed.load(std::memory_order_relaxed); }
