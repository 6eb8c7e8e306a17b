// How far this process has come with what it computes: tells a computation that takes long from one that stands still.
#pragma once

#include <atomic>
#include <cstdint>

namespace dmr {

inline std::atomic<int64_t> operations_done{0};  // of graphs; where a device computes only some of them are counted

inline void    count_operation() { operations_done.fetch_add(1, std::memory_order_relaxed); }
inline int64_t num_operations() { return operations_done.load(std::memory_order_relaxed); }

}  // namespace dmr
