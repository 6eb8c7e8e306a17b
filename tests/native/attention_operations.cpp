// Operations of attention over a memory in which several sequences have their cells here and there, as models have them
// that are too large for tests: with sinks, with a limit to products, with heads of other sizes. What each row gets has
// to be, to the last bit, what ggml computes for it when its sequence is alone in the memory: of one or two rows by
// themselves, of a prompt in tiles.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/kernels.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace {

constexpr int64_t TILE        = 64;   // rows that ggml computes in tiles
constexpr int64_t LEAST_ROWS  = 3;    // of one prompt that we do
constexpr int64_t LEAST_CELLS = 128;  // that they see

// Rows at the end of a sequence with so many cells.
struct Prompt {
    int64_t num_cells;
    int64_t num_rows;
    bool    sees_all = false;  // each row all cells, as in models for embeddings

    bool is_tiled() const {
        return num_rows >= TILE || (num_rows >= LEAST_ROWS && (sees_all || num_cells >= LEAST_CELLS));
    }
};

struct Case {
    std::vector<Prompt> prompts;
    int64_t             size_of_key;
    int64_t             size_of_value;
    int64_t             num_heads;
    int64_t             num_key_heads;
    ggml_type           type_of_keys;
    ggml_type           type_of_values;
    float               softcap;
    bool                has_sinks;
    int64_t             window;  // cells that a row sees at most
    int                 num_threads;
};

using Floats = std::vector<float>;

Floats random_floats(int64_t num, std::mt19937 & random) {
    Floats                          values(num);
    std::normal_distribution<float> normal;
    for (auto & value : values) {
        value = normal(random);
    }
    return values;
}

// What one sequence has.
struct Sequence {
    std::vector<Floats> queries;  // by head, [rows, size]
    std::vector<Floats> keys;     // by head of keys
    std::vector<Floats> values;
};

void put(ggml_tensor * tensor, int64_t row, int64_t head, const float * numbers) {
    char * place = static_cast<char *>(tensor->data) + row * tensor->nb[1] + head * tensor->nb[2];
    if (tensor->type == GGML_TYPE_F32) {
        std::memcpy(place, numbers, tensor->ne[0] * sizeof(float));
    } else {
        ggml_quantize_chunk(tensor->type, numbers, place, 0, 1, tensor->ne[0], nullptr);
    }
}

// As it is after it was kept in this type.
Floats kept(const Floats & numbers, ggml_type type) {
    if (type == GGML_TYPE_F32) {
        return numbers;
    }
    const auto        size = static_cast<int64_t>(numbers.size());
    std::vector<char> bytes(ggml_row_size(type, size));
    Floats            result(numbers.size());
    ggml_quantize_chunk(type, numbers.data(), bytes.data(), 0, 1, size, nullptr);
    ggml_get_type_traits(type)->to_float(bytes.data(), result.data(), size);
    return result;
}

class Operation {
  public:
    Operation(const Case & what, int64_t num_rows, int64_t num_cells, ggml_type keys, ggml_type values,
              const Floats & sinks)
        : context_(ggml_init({32U << 20U, nullptr, false})) {
        q_    = ggml_new_tensor_3d(context_, GGML_TYPE_F32, what.size_of_key, num_rows, what.num_heads);
        k_    = ggml_new_tensor_3d(context_, keys, what.size_of_key, num_cells, what.num_key_heads);
        v_    = ggml_new_tensor_3d(context_, values, what.size_of_value, num_cells, what.num_key_heads);
        mask_ = ggml_new_tensor_2d(context_, GGML_TYPE_F16, num_cells, num_rows);
        std::fill_n(static_cast<ggml_fp16_t *>(mask_->data), num_rows * num_cells, ggml_fp32_to_fp16(-INFINITY));
        std::memset(k_->data, 0, ggml_nbytes(k_));
        std::memset(v_->data, 0, ggml_nbytes(v_));
        result_ = ggml_flash_attn_ext(context_, q_, k_, v_, mask_, 0.125F, 0.0F, what.softcap);
        if (what.has_sinks) {
            auto * tensor = ggml_new_tensor_1d(context_, GGML_TYPE_F32, what.num_heads);
            std::memcpy(tensor->data, sinks.data(), ggml_nbytes(tensor));
            ggml_flash_attn_ext_add_sinks(result_, tensor);
        }
    }

    Operation(const Operation &)             = delete;
    Operation & operator=(const Operation &) = delete;
    ~Operation() { ggml_free(context_); }

    void put_cell(const Sequence & of, int64_t number, int64_t cell) {
        for (size_t head = 0; head < of.keys.size(); ++head) {
            put(k_, cell, static_cast<int64_t>(head), of.keys[head].data() + number * k_->ne[0]);
            put(v_, cell, static_cast<int64_t>(head), of.values[head].data() + number * v_->ne[0]);
        }
    }

    void put_row(const Sequence & of, int64_t number, int64_t row) {
        for (size_t head = 0; head < of.queries.size(); ++head) {
            put(q_, row, static_cast<int64_t>(head), of.queries[head].data() + number * q_->ne[0]);
        }
    }

    void let_see(int64_t row, int64_t cell) {
        static_cast<ggml_fp16_t *>(mask_->data)[row * mask_->ne[0] + cell] = ggml_fp32_to_fp16(0.0F);
    }

    Floats compute(bool is_own, int num_threads) {
        auto * graph = ggml_new_graph(context_);
        ggml_build_forward_expand(graph, result_);
        dmr_use_own_kernels(is_own ? 1 : 0);
        ggml_graph_compute_with_ctx(context_, graph, num_threads);
        const auto * data = static_cast<const float *>(result_->data);
        return {data, data + ggml_nelements(result_)};  // [rows, heads, size of a value]
    }

  private:
    ggml_context * context_;
    ggml_tensor *  q_;
    ggml_tensor *  k_;
    ggml_tensor *  v_;
    ggml_tensor *  mask_;
    ggml_tensor *  result_;
};

std::vector<Sequence> make_sequences(const Case & what, std::mt19937 & random) {
    std::vector<Sequence> sequences;
    for (const Prompt & prompt : what.prompts) {
        Sequence made;
        for (int64_t head = 0; head < what.num_heads; ++head) {
            made.queries.push_back(random_floats(prompt.num_rows * what.size_of_key, random));
        }
        for (int64_t head = 0; head < what.num_key_heads; ++head) {
            made.keys.push_back(random_floats(prompt.num_cells * what.size_of_key, random));
            made.values.push_back(random_floats(prompt.num_cells * what.size_of_value, random));
        }
        sequences.push_back(std::move(made));
    }
    return sequences;
}

// The cells that a row of a prompt sees, [begin, end).
std::pair<int64_t, int64_t> seen_by(const Case & what, const Prompt & prompt, int64_t row) {
    const int64_t end = prompt.sees_all ? prompt.num_cells : prompt.num_cells - prompt.num_rows + row + 1;
    return {std::max<int64_t>(0, end - what.window), end};
}

// All sequences in one memory with some free cells, each cell anybody's; the last row of all sees nothing.
Floats ours(const Case & what, const std::vector<Sequence> & sequences, const Floats & sinks, std::mt19937 & random) {
    std::vector<size_t> owners;
    int64_t             num_rows = 1;
    for (size_t i = 0; i < sequences.size(); ++i) {
        owners.insert(owners.end(), what.prompts[i].num_cells, i);
        num_rows += what.prompts[i].num_rows;
    }
    owners.insert(owners.end(), 20, sequences.size());
    std::shuffle(owners.begin(), owners.end(), random);

    Operation operation(what, num_rows, static_cast<int64_t>(owners.size()), what.type_of_keys, what.type_of_values,
                        sinks);
    std::vector<std::vector<int64_t>> cells(sequences.size() + 1);
    for (size_t cell = 0; cell < owners.size(); ++cell) {
        cells[owners[cell]].push_back(static_cast<int64_t>(cell));
    }
    int64_t row = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
        const Prompt & prompt = what.prompts[i];
        for (int64_t number = 0; number < prompt.num_cells; ++number) {
            operation.put_cell(sequences[i], number, cells[i][number]);
        }
        for (int64_t number = 0; number < prompt.num_rows; ++number, ++row) {
            operation.put_row(sequences[i], number, row);
            const auto [begin, end] = seen_by(what, prompt, number);
            for (int64_t cell = begin; cell < end; ++cell) {
                operation.let_see(row, cells[i][cell]);
            }
        }
    }
    return operation.compute(true, what.num_threads);
}

// Of rows [begin, end) of a prompt that is alone. ggml takes tiles only of as many rows, and of floats.
Floats theirs(const Case & what, const Prompt & prompt, const Sequence & sequence, const Floats & sinks, int64_t begin,
              int64_t end, bool is_tiled) {
    const bool      is_float = what.type_of_keys == GGML_TYPE_F16 && what.type_of_values == GGML_TYPE_F16;
    const bool      unpacks  = is_tiled && !is_float;
    const ggml_type keys     = unpacks ? GGML_TYPE_F32 : what.type_of_keys;
    const ggml_type values   = unpacks ? GGML_TYPE_F32 : what.type_of_values;
    const int64_t   num_rows = std::max<int64_t>(end - begin, is_tiled ? TILE : 2);
    const int64_t   first    = seen_by(what, prompt, begin).first;
    const int64_t   last     = seen_by(what, prompt, end - 1).second;

    Sequence as_kept = sequence;
    if (unpacks) {
        for (auto & each : as_kept.keys) {
            each = kept(each, what.type_of_keys);
        }
        for (auto & each : as_kept.values) {
            each = kept(each, what.type_of_values);
        }
    }
    Operation operation(what, num_rows, last - first, keys, values, sinks);
    for (int64_t number = first; number < last; ++number) {
        operation.put_cell(as_kept, number, number - first);
    }
    for (int64_t row = 0; row < num_rows; ++row) {
        const int64_t number = begin + row % (end - begin);
        operation.put_row(sequence, number, row);
        const auto [from, to] = seen_by(what, prompt, number);
        for (int64_t cell = from; cell < to; ++cell) {
            operation.let_see(row, cell - first);
        }
    }
    Floats result = operation.compute(false, what.num_threads);
    result.resize((end - begin) * what.num_heads * what.size_of_value);
    return result;
}

bool are_equal(const Case & what, const float * own, const Floats & expected, bool is_tiled) {
    if (!is_tiled || !what.has_sinks) {
        return std::memcmp(own, expected.data(), expected.size() * sizeof(float)) == 0;
    }
    // Sinks behind tiles are added up by ggml in another order.
    return std::equal(expected.begin(), expected.end(), own,
                      [](float a, float b) { return std::abs(a - b) <= 1e-6F * std::max(1.0F, std::abs(a)); });
}

void tell(const Case & what, const char * why, const Prompt & prompt) {
    std::printf(
        "%s: %d rows behind %d cells of %zu prompts; keys of %d %s, values of %d %s, %d heads over %d, "
        "limit %g, %s, window %d, %d threads\n",
        why, static_cast<int>(prompt.num_rows), static_cast<int>(prompt.num_cells), what.prompts.size(),
        static_cast<int>(what.size_of_key), ggml_type_name(what.type_of_keys), static_cast<int>(what.size_of_value),
        ggml_type_name(what.type_of_values), static_cast<int>(what.num_heads), static_cast<int>(what.num_key_heads),
        static_cast<double>(what.softcap), what.has_sinks ? "sinks" : "no sinks", static_cast<int>(what.window),
        what.num_threads);
}

bool is_right(const Case & what) {
    std::mt19937  random(7);
    const auto    sequences = make_sequences(what, random);
    const Floats  sinks     = random_floats(what.num_heads, random);
    const int64_t before    = dmr_num_own_operations();
    const Floats  own       = ours(what, sequences, sinks, random);
    if (dmr_num_own_operations() != before + 1) {
        tell(what, "not computed by us", what.prompts[0]);
        return false;
    }
    const int64_t size  = what.num_heads * what.size_of_value;
    const float * place = own.data();
    for (size_t i = 0; i < sequences.size(); ++i) {
        const Prompt & prompt   = what.prompts[i];
        const bool     is_tiled = prompt.is_tiled();
        const int64_t  most     = is_tiled ? TILE : 1;
        for (int64_t begin = 0; begin < prompt.num_rows; begin += most) {
            const int64_t end      = std::min(prompt.num_rows, begin + most);
            const Floats  expected = theirs(what, prompt, sequences[i], sinks, begin, end, is_tiled);
            if (!are_equal(what, place, expected, is_tiled)) {
                tell(what, is_tiled ? "tiles are not equal" : "rows are not equal", prompt);
                return false;
            }
            place += (end - begin) * size;
        }
    }
    if (std::any_of(place, own.data() + own.size(), [](float value) { return value != 0.0F; })) {
        tell(what, "who sees nothing got something", what.prompts.back());
        return false;
    }
    return true;
}

}  // namespace

int main() {
    const std::vector<std::vector<Prompt>> batches = {
        {{40, 1}, {300, 1}, {7, 1}},                                     // who generates
        {{300, 3}, {200, 2}, {127, 9}},                                  // guesses
        {{150, 150}, {300, 1}, {260, 17}},                               // prompts beside them
        {{63, 63}, {64, 64}},                                            // short prompts
        {{16, 16, true}, {2, 2, true}, {100, 100, true}, {9, 9, true}},  // texts
    };
    int num_wrong = 0;
    int num       = 0;
    for (const int num_threads : {1, 2}) {
        for (const bool has_sinks : {false, true}) {
            for (const float softcap : {0.0F, 5.0F}) {
                for (const auto & prompts : batches) {
                    for (const auto & heads : {std::pair<int64_t, int64_t>{9, 3}, {4, 1}, {4, 4}}) {
                        Case what{prompts,       64,      64,        heads.first, heads.second, GGML_TYPE_F16,
                                  GGML_TYPE_F16, softcap, has_sinks, 1000,        num_threads};
                        num_wrong += is_right(what) ? 0 : 1;
                        what.size_of_key   = 96;
                        what.size_of_value = 80;
                        what.window        = 140;
                        num_wrong += is_right(what) ? 0 : 1;
                        what.size_of_value = 64;
                        what.type_of_keys  = GGML_TYPE_Q8_0;
                        num_wrong += is_right(what) ? 0 : 1;
                        what.type_of_values = GGML_TYPE_Q8_0;
                        num_wrong += is_right(what) ? 0 : 1;
                        num += 4;
                    }
                }
            }
        }
    }
    std::printf("%d of %d are wrong\n", num_wrong, num);
    return num_wrong == 0 ? 0 : 1;
}
