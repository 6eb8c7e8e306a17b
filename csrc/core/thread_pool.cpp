#include "core/thread_pool.h"

namespace dmr {
namespace {

// Nanoseconds. To wake a thread takes half of it, more in a virtual machine.
constexpr size_t least_shared_out = 50'000;

}  // namespace

ThreadPool::ThreadPool(size_t num_threads) {
    for (size_t i = 1; i < num_threads; ++i) {
        threads_.emplace_back([this] { serve(); });
    }
}

ThreadPool::~ThreadPool() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
    }
    begin_.notify_all();
    for (auto & thread : threads_) {
        thread.join();
    }
}

void ThreadPool::run(size_t count, size_t each, const std::function<void(size_t)> & work) {
    if (count <= 1 || threads_.empty() || count * each < least_shared_out) {
        for (size_t i = 0; i < count; ++i) {
            work(i);
        }
        return;
    }
    {
        std::lock_guard<std::mutex> lock(mutex_);
        work_  = &work;
        count_ = count;
        next_  = 0;
        busy_  = threads_.size();
        ++generation_;
    }
    begin_.notify_all();
    take_work(work, count);
    std::unique_lock<std::mutex> lock(mutex_);
    end_.wait(lock, [this] { return busy_ == 0; });
}

void ThreadPool::take_work(const std::function<void(size_t)> & work, size_t count) {
    for (size_t i = next_.fetch_add(1); i < count; i = next_.fetch_add(1)) {
        work(i);
    }
}

void ThreadPool::serve() {
    size_t seen = 0;
    while (true) {
        const std::function<void(size_t)> * work  = nullptr;
        size_t                              count = 0;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            begin_.wait(lock, [&] { return stopping_ || generation_ != seen; });
            if (stopping_) {
                return;
            }
            seen  = generation_;
            work  = work_;
            count = count_;
        }
        take_work(*work, count);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            --busy_;
        }
        end_.notify_one();
    }
}

}  // namespace dmr
