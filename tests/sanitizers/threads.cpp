// What several threads do at once in the core, for a thread sanitizer to watch: `threads MODEL.gguf`.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/context.h"
#include "core/log_queue.h"
#include "core/model.h"
#include "core/progress.h"
#include "core/thread_pool.h"

namespace {

using namespace std::chrono_literals;

constexpr size_t enough = 1'000'000;  // nanoseconds of work, so that all threads of a pool are woken

void expect(bool holds, const char * what) {
    if (!holds) {
        throw std::runtime_error(what);
    }
}

void share_out_rows() {
    dmr::ThreadPool pool(4);
    for (size_t round = 0; round < 2000; ++round) {
        const size_t        count = round % 9;
        std::vector<size_t> rows(count, 0);  // each is written by one thread and read by this one afterwards
        pool.run(count, enough, [&](size_t i) { rows[i] += round; });
        for (const size_t row : rows) {
            expect(row == round, "a row was done twice, or not at all");
        }
    }
}

void make_and_end_pools() {
    for (size_t round = 0; round < 200; ++round) {
        dmr::ThreadPool     pool(1 + round % 5);
        std::atomic<size_t> num_done{0};
        pool.run(round % 7, enough, [&](size_t) { ++num_done; });
        expect(num_done == round % 7, "not all work was done");
    }
}

void log_and_read() {
    std::atomic<bool>        stops{false};
    std::vector<std::thread> writers;
    for (int i = 0; i < 3; ++i) {
        writers.emplace_back([i] {
            for (int round = 0; round < 100; ++round) {
                dmr::HeldLog held;
                try {
                    dmr::Model::load({"no-such-file.gguf"}, {}, [](float) { return true; });
                } catch (const std::exception &) {  // what it logs is wanted
                }
                dmr::last_errors();
                if (i == 0) {
                    dmr::forget_last_errors();
                    held.drop();
                }
            }
        });
    }
    std::thread reader([&] {
        while (!stops) {
            dmr::take_log_records(1ms);
            dmr::set_log_level(dmr::LogLevel::debug);
        }
    });
    for (auto & writer : writers) {
        writer.join();
    }
    stops = true;
    reader.join();
}

void abort_decodes(const std::string & path) {
    const auto          model = dmr::Model::load({path}, {}, [](float) { return true; });
    dmr::ContextOptions options;
    options.context_size  = 512;
    options.max_batch     = 256;
    options.max_sequences = 1;
    dmr::Context      context(model, options);
    std::atomic<bool> stops{false};
    std::thread       aborter([&] {
        while (!stops) {
            context.abort(context.next_decode());
            context.abort_running();
            dmr::num_operations();
            std::this_thread::sleep_for(1ms);
        }
    });
    dmr::Batch        batch;
    batch.add(0, std::vector<dmr::Token>(200, 5), 0, false, true, {});
    for (int round = 0; round < 30; ++round) {
        context.decode(batch);
        context.clear();
    }
    stops = true;
    aborter.join();
}

}  // namespace

int main(int argc, char ** argv) {
    dmr::capture_logs();
    share_out_rows();
    make_and_end_pools();
    log_and_read();
    if (argc > 1) {
        abort_decodes(argv[1]);
    }
    std::puts("ok");
    return 0;
}
