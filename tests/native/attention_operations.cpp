// Operations of attention as models have them that are too large for tests: with sinks, with a limit to products, with
// heads of other sizes. Computed in our way and in ggml's, all answers have to be equal to the last bit.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/attention.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace {

struct Case {
    int64_t   size_of_key;
    int64_t   size_of_value;
    int64_t   num_heads;
    int64_t   num_key_heads;
    int64_t   num_rows;
    int64_t   num_cells;
    ggml_type type_of_keys;
    ggml_type type_of_values;
    float     softcap;
    bool      has_sinks;
    int       num_threads;
};

void fill(ggml_tensor * tensor, std::mt19937 & random) {
    std::vector<float>              values(ggml_nelements(tensor));
    std::normal_distribution<float> normal;
    for (auto & value : values) {
        value = normal(random);
    }
    if (tensor->type == GGML_TYPE_F32) {
        std::memcpy(tensor->data, values.data(), ggml_nbytes(tensor));
    } else {
        ggml_quantize_chunk(tensor->type, values.data(), tensor->data, 0, ggml_nrows(tensor), tensor->ne[0], nullptr);
    }
}

// Rows of four sequences, each of which sees some cells, here and there or one behind the other; the last row sees
// none.
void fill_mask(ggml_tensor * mask, std::mt19937 & random) {
    const int64_t num_cells = mask->ne[0];
    auto *        cells     = static_cast<ggml_fp16_t *>(mask->data);
    for (int64_t row = 0; row < mask->ne[1]; ++row) {
        for (int64_t cell = 0; cell < num_cells; ++cell) {
            const bool in_a_run           = cell * 4 / num_cells == row % 4;
            const bool is_seen            = row + 1 < mask->ne[1] && (row % 3 == 0 ? random() % 9 == 0 : in_a_run);
            cells[row * num_cells + cell] = ggml_fp32_to_fp16(is_seen ? 0.0F : -INFINITY);
        }
    }
}

std::vector<char> answer(const Case & what, bool is_own) {
    std::mt19937   random(7);
    ggml_context * context = ggml_init({256U << 20U, nullptr, false});
    auto *         q = ggml_new_tensor_3d(context, GGML_TYPE_F32, what.size_of_key, what.num_rows, what.num_heads);
    auto * k = ggml_new_tensor_3d(context, what.type_of_keys, what.size_of_key, what.num_cells, what.num_key_heads);
    auto * v = ggml_new_tensor_3d(context, what.type_of_values, what.size_of_value, what.num_cells, what.num_key_heads);
    auto * mask = ggml_new_tensor_2d(context, GGML_TYPE_F16, what.num_cells, what.num_rows);
    fill(q, random);
    fill(k, random);
    fill(v, random);
    fill_mask(mask, random);
    auto * result = ggml_flash_attn_ext(context, q, k, v, mask, 0.125F, 0.0F, what.softcap);
    if (what.has_sinks) {
        auto * sinks = ggml_new_tensor_1d(context, GGML_TYPE_F32, what.num_heads);
        fill(sinks, random);
        ggml_flash_attn_ext_add_sinks(result, sinks);
    }
    auto * graph = ggml_new_graph(context);
    ggml_build_forward_expand(graph, result);
    dmr_use_own_attention(is_own ? 1 : 0);
    ggml_graph_compute_with_ctx(context, graph, what.num_threads);
    const auto *      data = static_cast<const char *>(result->data);
    std::vector<char> bytes(data, data + ggml_nbytes(result));
    ggml_free(context);
    return bytes;
}

// Sinks behind tiles are added up by ggml in an order of its own.
bool should_be_own(const Case & what) {
    return !what.has_sinks || what.num_rows < 64 || what.type_of_keys != what.type_of_values;
}

bool is_right(const Case & what) {
    const int64_t before = dmr_num_own_attentions();
    const auto    own    = answer(what, true);
    const bool    is_own = dmr_num_own_attentions() > before;
    const auto    theirs = answer(what, false);
    if (is_own == should_be_own(what) && own == theirs) {
        return true;
    }
    std::printf(
        "%s: keys of %d, values of %d, %d heads over %d, %d rows, %d cells, types %s %s, limit %g, %s, %d threads\n",
        own != theirs ? "not equal" : "not computed as it should be", static_cast<int>(what.size_of_key),
        static_cast<int>(what.size_of_value), static_cast<int>(what.num_heads), static_cast<int>(what.num_key_heads),
        static_cast<int>(what.num_rows), static_cast<int>(what.num_cells), ggml_type_name(what.type_of_keys),
        ggml_type_name(what.type_of_values), static_cast<double>(what.softcap), what.has_sinks ? "sinks" : "no sinks",
        what.num_threads);
    return false;
}

}  // namespace

int main() {
    int num_wrong = 0;
    int num       = 0;
    for (const int num_threads : {1, 3}) {
        for (const bool has_sinks : {false, true}) {
            for (const float softcap : {0.0F, 5.0F}) {
                for (const int64_t num_rows : {2, 63, 64, 150}) {
                    for (const int64_t num_cells : {5, 300}) {
                        for (const auto & heads : {std::pair<int64_t, int64_t>{9, 3}, {4, 1}, {4, 4}}) {
                            Case what{64,       64,        heads.first,   heads.second,
                                      num_rows, num_cells, GGML_TYPE_F16, GGML_TYPE_F16,
                                      softcap,  has_sinks, num_threads};
                            num_wrong += is_right(what) ? 0 : 1;
                            what.size_of_key   = 96;
                            what.size_of_value = 80;
                            num_wrong += is_right(what) ? 0 : 1;
                            what.type_of_keys = GGML_TYPE_Q8_0;
                            num_wrong += is_right(what) ? 0 : 1;
                            num += 3;
                        }
                    }
                }
            }
        }
    }
    std::printf("%d of %d are wrong\n", num_wrong, num);
    return num_wrong == 0 ? 0 : 1;
}
