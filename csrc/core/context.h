// A context: KV memory and compute buffers over a model. One thread at a time may use it (abort() excepted).
//
// Everything that llama.cpp would answer with an abort (ids out of range, too many tokens or outputs, states that are
// not ours) is checked here first and thrown as std::invalid_argument.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/batch.h"
#include "core/context_options.h"
#include "core/model.h"
#include "core/projector.h"

struct llama_batch;
struct llama_context;
struct ggml_threadpool;

namespace dmr {

enum class DecodeStatus { done, no_room, aborted };

struct ContextCounters {
    int64_t num_decodes;
    int64_t num_tokens;
    int32_t num_reused_graphs;
};

// Places [begin, end) of a piece of a sequence's prompt, whose first place is at `first_position`.
struct MediaSlice {
    SequenceId           sequence;
    int32_t              first_position;
    const MediaPiece *   piece;
    const MediaVectors * vectors;
    int32_t              begin;
    int32_t              end;
};

class Context {
  public:
    Context(std::shared_ptr<Model> model, const ContextOptions & options);
    ~Context();
    Context(const Context &)             = delete;
    Context & operator=(const Context &) = delete;

    const std::shared_ptr<Model> & model() const { return model_; }
    uint32_t                       context_size() const;           // cells in all
    uint32_t                       sequence_context_size() const;  // cells that one sequence can have
    uint32_t                       max_batch() const { return options_.max_batch; }
    uint32_t                       max_sequences() const { return options_.max_sequences; }
    uint32_t                       max_outputs() const { return options_.max_outputs; }
    bool                           unified() const { return options_.unified; }
    bool                           has_memory() const;  // false for encoders such as BERT
    bool                           can_shift() const;
    bool                           can_truncate() const;  // false for recurrent states: they cannot go back

    // Runs the batch. `no_room`: nothing was changed. `aborted`: each sequence of the batch holds what it held before,
    // or nothing at all where `can_truncate` is false.
    // Throws std::invalid_argument for a wrong batch (nothing was changed) and DecodeError when the back end failed.
    DecodeStatus decode(const Batch & batch);
    // The same for a picture or a sound. llama.cpp takes vectors and tokens in separate batches only.
    DecodeStatus decode_media(const MediaSlice & slice);
    // The number that the next call of either will have. Any thread.
    int64_t next_decode() const { return abort_.next; }
    // Stops the decode with this number, also one that has not begun yet; one that is over is left alone, and so are
    // all others. Stops it where the CPU computes; a device goes on to the end. Any thread.
    void abort(int64_t decode);
    // Stops the decode that runs now, if there is one.
    void abort_running() { abort(abort_.running); }

    // Row of the last decode by batch index; valid until the next decode. num_vocabulary floats.
    const float * logits(int32_t index) const;
    // vector_length floats; one row per output (pooling none).
    const float * embedding(int32_t index) const;
    // Pooled vector of a sequence: vector_length floats, or num_classifier_outputs for rank pooling.
    const float * sequence_embedding(SequenceId sequence) const;
    int32_t       sequence_embedding_length() const;

    // Positions [begin, end); end < 0 = to the end. False: this memory cannot remove a part (recurrent).
    bool remove(SequenceId sequence, int32_t begin, int32_t end);
    // The target must be empty from `begin` on; it shares the cells, so that a shift of one moves both.
    void    copy(SequenceId source, SequenceId target, int32_t begin, int32_t end);
    void    keep(SequenceId sequence);  // forgets all others
    void    shift(SequenceId sequence, int32_t begin, int32_t end, int32_t delta);
    void    clear();
    int32_t position_min(SequenceId sequence) const;  // -1 = empty
    int32_t position_max(SequenceId sequence) const;

    // A sequence's state as bytes that `restore` of a context with the same model and layout takes.
    std::string save(SequenceId sequence) const;
    // Throws std::invalid_argument for bytes that are damaged or come from elsewhere; false = no room.
    bool restore(SequenceId sequence, const std::string & state);

    void            set_threads(int32_t num_threads);  // 1 .. as created
    ContextCounters counters() const;

  private:
    static constexpr int64_t no_decode = -1;
    struct AbortState {
        std::atomic<int64_t> next{0};
        std::atomic<int64_t> running{no_decode};
        std::atomic<int64_t> unwanted{no_decode};  // the last decode that was to stop
    };
    static bool is_unwanted(void * abort_state);

    void    require_sequence(SequenceId sequence) const;
    void    require_batch(const Batch & batch);
    void    require_media(const MediaSlice & slice);
    int32_t run(const llama_batch & batch, int64_t number);
    int32_t run_media(const MediaSlice & slice, int64_t number);
    void    take_back(const std::vector<SequenceId> & sequences);
    template <typename Run>
    DecodeStatus attempt(int64_t number, const std::vector<SequenceId> & sequences, Run run);
    void         require_output(int32_t index) const;
    uint64_t     layout_fingerprint() const;

    std::shared_ptr<Model> model_;
    ContextOptions         options_;
    llama_context *        handle_     = nullptr;
    ggml_threadpool *      threadpool_ = nullptr;
    AbortState             abort_;
    std::vector<int32_t>   held_;          // by sequence: tokens before this decode; -1 = not in the batch
    std::vector<int32_t>   following_;     // by sequence: the position of its next token in the batch
    std::vector<int8_t>    last_outputs_;  // of the last decode: which indices have a row
    int64_t                num_decodes_ = 0;
    int64_t                num_tokens_  = 0;
};

}  // namespace dmr
