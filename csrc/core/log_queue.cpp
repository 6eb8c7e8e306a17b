#include "core/log_queue.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "llama.h"
#include "log.h"  // llama-common's logger
#include "mtmd.h"

namespace dmr {
namespace {

constexpr size_t max_records = 4096;
constexpr size_t max_errors  = 8;

struct LogQueue {
    std::mutex              mutex;
    std::condition_variable arrived;
    std::deque<LogRecord>   records;
    std::deque<std::string> errors;
    std::string             partial;  // a line whose end has not come yet
    LogLevel                partial_level = LogLevel::info;
    std::atomic<int>        level{static_cast<int>(LogLevel::info)};
};

// Never destroyed: library threads may log while the process exits.
LogQueue & queue() {
    static auto * instance = new LogQueue;
    return *instance;
}

LogLevel level_of(ggml_log_level level, LogLevel continued) {
    switch (level) {
        case GGML_LOG_LEVEL_DEBUG: return LogLevel::debug;
        case GGML_LOG_LEVEL_WARN:  return LogLevel::warning;
        case GGML_LOG_LEVEL_ERROR: return LogLevel::error;
        case GGML_LOG_LEVEL_CONT:  return continued;
        default:                   return LogLevel::info;
    }
}

thread_local std::vector<LogRecord> * held_records = nullptr;

void append(LogQueue & q, LogRecord record) {
    q.records.push_back(std::move(record));
    if (q.records.size() > max_records) {
        q.records.pop_front();
    }
}

void push(LogQueue & q, LogLevel level, std::string line) {
    if (level == LogLevel::error) {
        q.errors.push_back(line);
        if (q.errors.size() > max_errors) {
            q.errors.pop_front();
        }
    }
    if (static_cast<int>(level) < q.level.load(std::memory_order_relaxed)) {
        return;
    }
    if (held_records != nullptr) {
        held_records->push_back({level, std::move(line)});
    } else {
        append(q, {level, std::move(line)});
    }
}

void on_log(ggml_log_level raw_level, const char * text, void *) {
    auto & q = queue();
    {
        std::lock_guard<std::mutex> lock(q.mutex);
        q.partial_level = level_of(raw_level, q.partial_level);
        q.partial += text;
        size_t start = 0;
        for (size_t end; (end = q.partial.find('\n', start)) != std::string::npos; start = end + 1) {
            if (end > start) {
                push(q, q.partial_level, q.partial.substr(start, end - start));
            }
        }
        q.partial.erase(0, start);
    }
    q.arrived.notify_one();
}

}  // namespace

HeldLog::HeldLog() { held_records = &records_; }

HeldLog::~HeldLog() {
    held_records = nullptr;
    if (records_.empty()) {
        return;
    }
    auto & q = queue();
    {
        std::lock_guard<std::mutex> lock(q.mutex);
        for (auto & record : records_) {
            append(q, std::move(record));
        }
    }
    q.arrived.notify_one();
}

void capture_logs() {
    llama_log_set(on_log, nullptr);
    mtmd_log_set(on_log, nullptr);
    // llama-common writes to the terminal through a thread of its own; what it has to say reaches us as exceptions.
    common_log_set_verbosity_thold(-1);
}

void set_log_level(LogLevel level) { queue().level = static_cast<int>(level); }

std::vector<LogRecord> take_log_records(std::chrono::milliseconds timeout) {
    auto & q = queue();

    std::unique_lock<std::mutex> lock(q.mutex);
    q.arrived.wait_for(lock, timeout, [&] { return !q.records.empty(); });
    std::vector<LogRecord> taken(q.records.begin(), q.records.end());
    q.records.clear();
    return taken;
}

std::string last_errors() {
    auto & q = queue();

    std::lock_guard<std::mutex> lock(q.mutex);
    std::string                 joined;
    for (const auto & line : q.errors) {
        joined += (joined.empty() ? "" : "; ") + line;
    }
    return joined;
}

void forget_last_errors() {
    auto & q = queue();

    std::lock_guard<std::mutex> lock(q.mutex);
    q.errors.clear();
}

}  // namespace dmr
