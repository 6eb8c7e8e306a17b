#pragma once

// Tiles of processors with AMX.

#if defined(__AMX_INT8__) && defined(__AVX512VNNI__)

#include <immintrin.h>

#include <cstdint>

namespace dmr::cpu {

constexpr int64_t ROWS = 16;  // of a tile

struct alignas(64) TileConfig {
    uint8_t  palette      = 1;
    uint8_t  start_row    = 0;
    uint8_t  reserved[14] = {};
    uint16_t bytes[16];  // of a row of each tile
    uint8_t  rows[16];
};
static_assert(sizeof(TileConfig) == 64);

// The same as ggml's own, which it sets once for each thread: so it does not matter who comes first.
inline void configure_tiles() {
    const TileConfig config{1, 0, {}, {64, 64, 32, 32, 64, 64, 64, 64}, {8, 8, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&config);
}

// All 8 as large as they get. Whoever uses them calls `configure_tiles` afterwards.
inline void configure_large_tiles() {
    const TileConfig config{1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&config);
}

// Compilers do not know what tile instructions read and write.
inline void finish_stores() { asm volatile("" ::: "memory"); }

}  // namespace dmr::cpu

#endif
