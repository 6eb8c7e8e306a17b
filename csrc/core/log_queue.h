// Log lines of ggml and llama.cpp, kept in a bounded queue until somebody fetches them.
//
// The callback runs on any thread and under internal locks of the libraries, so it only appends: it never blocks on a
// reader and never knows about Python.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace dmr {

enum class LogLevel : int { debug = 1, info = 2, warning = 3, error = 4 };

struct LogRecord {
    LogLevel    level;
    std::string text;  // one line, without its end
};

// Routes all log output of the libraries into the queue. Called once, at import.
void capture_logs();

// Lines below `level` are dropped in the callback.
void set_log_level(LogLevel level);

// All lines since the last call; waits up to `timeout` for the first. Overflow (4096 lines) drops the oldest.
std::vector<LogRecord> take_log_records(std::chrono::milliseconds timeout);

// While one lives, what its thread logs is held back; afterwards it goes into the queue, unless it was dropped.
class HeldLog {
  public:
    HeldLog();
    ~HeldLog();
    HeldLog(const HeldLog &)             = delete;
    HeldLog & operator=(const HeldLog &) = delete;

    void drop() { records_.clear(); }

  private:
    std::vector<LogRecord> records_;
};

// The last error lines that this thread's work wrote since `forget_last_errors`, joined: the reason behind a NULL.
std::string last_errors();
void        forget_last_errors();

}  // namespace dmr
