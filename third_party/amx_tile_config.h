// The compiler is told of 8 of the 64 bytes that ldtilecfg reads by the header of GCC before 12.4, 13.3 and 14.1 (GCC
// bug 114098), so it drops the rest of ggml's tile configuration, and the first tile instruction ends the process.
// CMake puts this in front of ggml's CPU sources: it names the same instruction with all that it reads.
#pragma once

#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

static inline void dmr_tile_loadconfig(const void * config) {
    asm volatile("ldtilecfg %0" ::"m"(*static_cast<const char(*)[64]>(config)));
}

#define _tile_loadconfig dmr_tile_loadconfig
#endif
