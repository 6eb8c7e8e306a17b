// Which rows are computed together. ggml goes over tiles of rows as soon as a batch has 64 of them, whoever they belong
// to, and computes for each row of a tile what one of them sees; with fewer, each row goes by itself, which is several
// times dearer for those of one prompt. Here it depends on the rows: what one sequence gets is the same whoever else is
// in the batch.

#include <algorithm>

#include "attention_operation.h"

namespace dmr::cpu {
namespace {

// Rows of one sequence that are fewer are often its next token behind guesses, which have to be what they would be one
// by one. Before few cells a short prompt is as quick by rows, and so it is what it would be in ggml.
constexpr int64_t LEAST_ROWS  = 3;
constexpr int64_t LEAST_CELLS = 128;

constexpr int64_t MOST_APART = 4;  // cells that only one of two neighbours sees: its own, and what a window leaves

// Cells that only one of a row and the next one sees.
int64_t num_apart(const Attention & what, int64_t row) {
    const ggml_fp16_t * one  = what.mask_of(row);
    const ggml_fp16_t * next = what.mask_of(row + 1);
    int64_t             num  = 0;
    for (int64_t cell = 0; cell < what.num_cells(); ++cell) {
        num += one[cell] != next[cell] ? 1 : 0;
    }
    return num;
}

// Rows of one sequence.
struct Run : Rows {
    bool is_alike = true;  // all rows see the same, as in models for embeddings

    bool extend(const Attention & what) {
        const int64_t last = row + num_rows - 1;
        const int64_t num  = last + 1 < what.num_rows() ? num_apart(what, last) : MOST_APART + 1;
        if (num > MOST_APART) {
            return false;
        }
        is_alike = is_alike && num == 0;
        ++num_rows;
        return true;
    }
};

bool goes_by_tiles(const Attention & what, const Run & run) {
    if (run.num_rows >= TILE) {
        return true;
    }
    if (run.num_rows < LEAST_ROWS || run.is_alike) {
        return run.num_rows >= LEAST_ROWS;
    }
    thread_local std::vector<int32_t> seen;
    list_seen(what, {run.row + run.num_rows - 1, 1}, seen);
    return static_cast<int64_t>(seen.size()) >= LEAST_CELLS;
}

}  // namespace

void make_plan(const Attention & what, Plan & plan) {
    plan.tiles.clear();
    plan.rows.clear();
    Run run;
    for (int64_t row = 0; row < what.num_rows(); row = run.row + run.num_rows) {
        run = Run{{row, 1}};
        while (run.extend(what)) {
        }
        const bool    is_tiled = goes_by_tiles(what, run);
        const int64_t most     = is_tiled ? TILE : 1;
        for (int64_t begin = 0; begin < run.num_rows; begin += most) {
            (is_tiled ? plan.tiles : plan.rows).push_back({run.row + begin, std::min(most, run.num_rows - begin)});
        }
    }
}

}  // namespace dmr::cpu
