#include "attention_operation.h"

namespace dmr::cpu {
namespace {

constexpr int64_t ROWS_A_THREAD = 4;  // from so many on, threads take whole rows; else a row's heads are parts too

}  // namespace

// A single row is left to ggml, which cuts its cells into pieces for its threads.
bool can_attend(const Attention & what) {
    const auto * k = ggml_get_type_traits_cpu(what.k->type);
    return what.is_plain() && what.num_rows() > 1 && k->vec_dot != nullptr &&
           ggml_get_type_traits_cpu(k->vec_dot_type)->from_float != nullptr;
}

void attend(const ggml_compute_params * params, const Attention & what) {
    thread_local Plan plan;
    make_plan(what, plan);
    const auto    num_rows   = static_cast<int64_t>(plan.rows.size());
    const bool    takes_rows = num_rows >= ROWS_A_THREAD * params->nth;
    const int64_t num_heads  = takes_rows ? what.num_heads() : what.num_sharing();  // of a row's part
    const int64_t num_groups = what.num_heads() / num_heads;
    const int64_t num_tiles  = num_tile_parts(what, plan.tiles, params->nth);

    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);
    const int64_t num_parts = num_tiles + num_rows * num_groups;
    for (int64_t part = params->ith; part < num_parts; part = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        if (part < num_tiles) {
            attend_tiles(what, plan.tiles, part, num_tiles);
        } else {
            const int64_t place = part - num_tiles;
            attend_row(what, plan.rows[place / num_groups].row, place % num_groups * num_heads, num_heads);
        }
    }
}

}  // namespace dmr::cpu
