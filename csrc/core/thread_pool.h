// A few threads that share out the rows of one step. Idle threads sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace dmr {

class ThreadPool {
  public:
    // `num_threads` counts the caller: 1 starts none.
    explicit ThreadPool(size_t num_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool &)             = delete;
    ThreadPool & operator=(const ThreadPool &) = delete;

    // Calls work(0) .. work(count - 1), in no order; returns when all are done. `work` must not throw.
    // `each`: nanoseconds of one call, about. The caller does alone what would be done before others are awake.
    void run(size_t count, size_t each, const std::function<void(size_t)> & work);

  private:
    void serve();
    void take_work(const std::function<void(size_t)> & work, size_t count);

    std::vector<std::thread>            threads_;
    std::mutex                          mutex_;
    std::condition_variable             begin_;
    std::condition_variable             end_;
    const std::function<void(size_t)> * work_       = nullptr;
    size_t                              count_      = 0;
    size_t                              generation_ = 0;
    size_t                              busy_       = 0;
    std::atomic<size_t>                 next_{0};
    bool                                stopping_ = false;
};

}  // namespace dmr
