#include "core/context.h"

#include <algorithm>
#include <limits>

#include "core/cpu_kernels.h"
#include "core/errors.h"
#include "core/log_queue.h"
#include "core/progress.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "llama.h"

namespace dmr {
namespace {

// llama.cpp reserves its pooling for a batch that the sequences share evenly, and asserts that it is one.
uint32_t even_batch(const ContextOptions & options, const Model & model) {
    const uint32_t longest = std::min(options.max_batch, context_size_of(options, model));
    return longest - longest % options.max_sequences;
}

// The CPU back end may be a library that was loaded by name, so its functions are asked for by name too.
template <typename Function> Function cpu_function(const char * name) {
    auto * device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (device == nullptr) {
        throw LoadError("no CPU back end was found");
    }
    return reinterpret_cast<Function>(ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), name));
}

ggml_threadpool * make_threadpool(int32_t num_threads, uint32_t polling) {
    auto params = ggml_threadpool_params_default(num_threads);
    params.poll = polling;
    return cpu_function<decltype(&ggml_threadpool_new)>("ggml_threadpool_new")(&params);
}

void free_threadpool(ggml_threadpool * pool) {
    cpu_function<decltype(&ggml_threadpool_free)>("ggml_threadpool_free")(pool);
}

}  // namespace

Context::Context(std::shared_ptr<Model> model, const ContextOptions & options)
    : model_(std::move(model)), options_(options) {
    check_options(options, *model_);
    if (options.embeddings) {
        options_.max_batch = even_batch(options, *model_);
    }
    held_.resize(options.max_sequences);
    following_.resize(options.max_sequences);
    auto params      = to_params(options);
    params.n_batch   = options_.max_batch;
    params.n_ubatch  = options_.max_batch;  // one pass for each decode
    params.n_seq_max = options.max_sequences;
    // Pooled embeddings take every token as an output.
    const uint32_t least_outputs = options.embeddings ? options_.max_batch : options.max_sequences;
    options_.max_outputs         = std::max(options.max_outputs, least_outputs);
    params.n_outputs_max         = options_.max_outputs;
    params.abort_callback        = is_unwanted;
    params.abort_callback_data   = &abort_;

    forget_last_errors();
    handle_ = llama_init_from_model(model_->handle(), params);
    if (handle_ == nullptr) {
        throw LoadError("cannot make a context: " + last_errors());
    }
    options_.max_batch = std::min(options_.max_batch, llama_n_batch(handle_));
    try {
        const int32_t num_threads = std::max(options.num_threads, options.num_batch_threads);
        threadpool_               = make_threadpool(num_threads, options.thread_polling);
        if (threadpool_ == nullptr) {
            throw LoadError("cannot start " + std::to_string(num_threads) + " compute threads");
        }
        if (options.embeddings) {
            multiply_floats(threadpool_, true);
        }
    } catch (...) {
        llama_free(handle_);
        throw;
    }
    llama_attach_threadpool(handle_, threadpool_, threadpool_);
}

Context::~Context() {
    llama_free(handle_);
    multiply_floats(threadpool_, false);
    free_threadpool(threadpool_);
}

uint32_t Context::context_size() const { return llama_n_ctx(handle_); }
uint32_t Context::sequence_context_size() const { return llama_n_ctx_seq(handle_); }
bool     Context::has_memory() const { return llama_get_memory(handle_) != nullptr; }

bool Context::can_shift() const { return has_memory() && llama_memory_can_shift(llama_get_memory(handle_)); }

bool Context::can_truncate() const { return has_memory() && !model_->is_recurrent() && !model_->is_hybrid(); }

// Asked between two operations of a graph.
bool Context::is_unwanted(void * abort_state) {
    count_operation();
    const auto & state = *static_cast<const AbortState *>(abort_state);
    return state.unwanted.load(std::memory_order_relaxed) == state.running.load(std::memory_order_relaxed);
}

void Context::abort(int64_t decode) {
    // A request that comes late must not hide one for a later decode.
    int64_t known = abort_.unwanted;
    while (known < decode && !abort_.unwanted.compare_exchange_weak(known, decode)) {
    }
}

DecodeStatus Context::decode(const Batch & batch) {
    const int64_t number = abort_.next++;
    require_batch(batch);
    std::vector<int32_t>        counts(batch.tokens.size(), 1);
    std::vector<llama_seq_id *> ids;
    ids.reserve(batch.tokens.size());
    for (const auto & id : batch.sequence_ids) {
        ids.push_back(const_cast<llama_seq_id *>(&id));
    }
    llama_batch raw{};
    raw.n_tokens      = batch.size();
    raw.token         = const_cast<llama_token *>(batch.tokens.data());
    raw.pos           = const_cast<llama_pos *>(batch.positions.data());
    raw.n_seq_id      = counts.data();
    raw.seq_id        = ids.data();
    raw.logits        = const_cast<int8_t *>(batch.outputs.data());
    const auto status = attempt(number, batch.sequence_ids, [&] { return run(raw, number); });
    if (status == DecodeStatus::done) {
        last_outputs_ = batch.outputs;
        num_tokens_ += batch.size();
    }
    return status;
}

DecodeStatus Context::decode_media(const MediaSlice & slice) {
    const int64_t number = abort_.next++;
    require_media(slice);
    const auto status = attempt(number, {slice.sequence}, [&] { return run_media(slice, number); });
    if (status == DecodeStatus::done) {
        num_tokens_ += slice.end - slice.begin;
    }
    return status;
}

template <typename Run>
DecodeStatus Context::attempt(int64_t number, const std::vector<SequenceId> & sequences, Run run) {
    if (abort_.unwanted == number) {
        last_outputs_.clear();
        return DecodeStatus::aborted;
    }
    HeldLog       log;
    const int32_t status = run();
    if (status == 1) {
        return DecodeStatus::no_room;
    }
    last_outputs_.clear();
    if (status != 0) {
        take_back(sequences);
    }
    if (status == 2 || (status < 0 && abort_.unwanted == number)) {
        log.drop();  // llama.cpp warns of each sequence
        return DecodeStatus::aborted;
    }
    if (status != 0) {
        throw DecodeError("decode failed (" + std::to_string(status) + "): " + last_errors());
    }
    ++num_decodes_;
    return DecodeStatus::done;
}

int32_t Context::run(const llama_batch & batch, int64_t number) {
    struct Running {
        Running(AbortState & state, int64_t number) : state(state) { state.running = number; }
        ~Running() { state.running = no_decode; }
        AbortState & state;
    } running(abort_, number);
    forget_last_errors();
    const int32_t status = has_memory() ? llama_decode(handle_, batch) : llama_encode(handle_, batch);
    if (status == 0) {
        llama_synchronize(handle_);
    }
    return status;
}

int32_t Context::run_media(const MediaSlice & slice, int64_t number) {
    const auto count = static_cast<size_t>(slice.end - slice.begin);
    auto positions   = positions_of(*slice.piece, model_->uses_mrope(), slice.first_position, slice.begin, slice.end);
    std::vector<int32_t>        counts(count, 1);
    auto                        sequence = slice.sequence;
    std::vector<llama_seq_id *> ids(count, &sequence);
    std::vector<int8_t>         outputs(count, 0);

    llama_batch raw{};
    raw.n_tokens = slice.end - slice.begin;
    raw.embd     = const_cast<float *>(slice.vectors->values.data()) + size_t{1} * slice.begin * slice.vectors->width;
    raw.pos      = positions.data();
    raw.n_seq_id = counts.data();
    raw.seq_id   = ids.data();
    raw.logits   = outputs.data();
    llama_set_causal_attn(handle_, slice.piece->is_causal);
    const int32_t status = run(raw, number);
    llama_set_causal_attn(handle_, true);
    return status;
}

// What llama.cpp has kept of a batch that failed: the parts that were done, and states that cannot go back.
void Context::take_back(const std::vector<SequenceId> & sequences) {
    if (!has_memory()) {
        return;
    }
    for (const SequenceId sequence : sequences) {
        const int32_t held = held_[static_cast<size_t>(sequence)];
        if (position_max(sequence) >= held && !remove(sequence, held, -1)) {
            remove(sequence, -1, -1);
        }
    }
}

const float * Context::logits(int32_t index) const {
    require_output(index);
    const float * row = llama_get_logits_ith(handle_, index);
    require(row != nullptr, "there are no logits at this place");
    return row;
}

const float * Context::embedding(int32_t index) const {
    require(options_.embeddings, "the context was not made for embeddings");
    require(llama_pooling_type(handle_) == LLAMA_POOLING_TYPE_NONE, "the context pools: ask by sequence");
    require_output(index);
    const float * row = llama_get_embeddings_ith(handle_, index);
    require(row != nullptr, "there is no embedding at this place");
    return row;
}

const float * Context::sequence_embedding(SequenceId sequence) const {
    require(options_.embeddings, "the context was not made for embeddings");
    require_sequence(sequence);
    const float * row = llama_get_embeddings_seq(handle_, sequence);
    require(row != nullptr, "the last batch holds no embedding for this sequence");
    return row;
}

int32_t Context::sequence_embedding_length() const {
    const bool rank = llama_pooling_type(handle_) == LLAMA_POOLING_TYPE_RANK;
    return rank ? model_->num_classifier_outputs() : model_->vector_length();
}

bool Context::remove(SequenceId sequence, int32_t begin, int32_t end) {
    require_sequence(sequence);
    return llama_memory_seq_rm(llama_get_memory(handle_), sequence, begin, end);
}

void Context::copy(SequenceId source, SequenceId target, int32_t begin, int32_t end) {
    require_sequence(source);
    require_sequence(target);
    require(options_.unified || (begin <= 0 && end < 0), "separate streams copy whole sequences only");
    if (source != target) {
        // Cells of its own at the same positions would stay beside the shared ones.
        require(position_max(target) < std::max(begin, 0), "sequence " + std::to_string(target) +
                                                               " is not empty from " +
                                                               std::to_string(std::max(begin, 0)) + " on");
        llama_memory_seq_cp(llama_get_memory(handle_), source, target, begin, end);
    }
}

void Context::keep(SequenceId sequence) {
    require_sequence(sequence);
    // llama_memory_seq_keep clears the sequence's own stream only.
    for (SequenceId other = 0; static_cast<uint32_t>(other) < options_.max_sequences; ++other) {
        if (other != sequence) {
            llama_memory_seq_rm(llama_get_memory(handle_), other, -1, -1);
        }
    }
}

void Context::shift(SequenceId sequence, int32_t begin, int32_t end, int32_t delta) {
    require_sequence(sequence);
    require(can_shift(), "this model's memory cannot be shifted");
    require(begin >= 0 && begin + static_cast<int64_t>(delta) >= 0, "positions would become negative");
    require(static_cast<int64_t>(position_max(sequence)) + delta < std::numeric_limits<int32_t>::max(),
            "the shift is too far");
    llama_memory_seq_add(llama_get_memory(handle_), sequence, begin, end, delta);
}

void Context::clear() {
    if (has_memory()) {
        llama_memory_clear(llama_get_memory(handle_), false);
    }
}

int32_t Context::position_min(SequenceId sequence) const {
    require_sequence(sequence);
    return llama_memory_seq_pos_min(llama_get_memory(handle_), sequence);
}

int32_t Context::position_max(SequenceId sequence) const {
    require_sequence(sequence);
    return llama_memory_seq_pos_max(llama_get_memory(handle_), sequence);
}

void Context::set_threads(int32_t num_threads) {
    require(num_threads >= 1 && num_threads <= options_.num_threads,
            "num_threads is out of range 1.." + std::to_string(options_.num_threads));
    llama_set_n_threads(handle_, num_threads, num_threads);
}

ContextCounters Context::counters() const { return {num_decodes_, num_tokens_, llama_perf_context(handle_).n_reused}; }

void Context::require_sequence(SequenceId sequence) const {
    require(has_memory() || options_.embeddings, "this model keeps no memory");
    if (sequence < 0 || static_cast<uint32_t>(sequence) >= options_.max_sequences) {
        throw std::invalid_argument("sequence " + std::to_string(sequence) + " is out of range 0.." +
                                    std::to_string(options_.max_sequences - 1));
    }
}

// Leaves in `held_` what each sequence of the batch holds before it.
void Context::require_batch(const Batch & batch) {
    require(batch.size() > 0, "the batch is empty");
    if (static_cast<uint32_t>(batch.size()) > options_.max_batch) {
        throw std::invalid_argument("the batch has " + std::to_string(batch.size()) + " tokens, the most is " +
                                    std::to_string(options_.max_batch));
    }
    auto *        memory      = llama_get_memory(handle_);
    const int32_t longest     = memory == nullptr ? model_->context_length() : std::numeric_limits<int32_t>::max();
    uint32_t      num_outputs = 0;
    std::fill(held_.begin(), held_.end(), -1);
    for (size_t i = 0; i < batch.tokens.size(); ++i) {
        model_->require_token(batch.tokens[i]);
        require_sequence(batch.sequence_ids[i]);
        const auto sequence = static_cast<size_t>(batch.sequence_ids[i]);
        if (held_[sequence] < 0) {
            held_[sequence]      = memory == nullptr ? 0 : llama_memory_seq_pos_max(memory, batch.sequence_ids[i]) + 1;
            following_[sequence] = held_[sequence];
        }
        const int32_t position = following_[sequence];
        // What stands behind a picture may be further on, where positions have several parts.
        if (batch.positions[i] > position && position == held_[sequence] && model_->uses_mrope()) {
            following_[sequence] = batch.positions[i] + 1;
            num_outputs += batch.outputs[i] != 0 ? 1 : 0;
            continue;
        }
        if (batch.positions[i] != position) {
            throw std::invalid_argument("sequence " + std::to_string(sequence) + " goes on at position " +
                                        std::to_string(position) + ", not " + std::to_string(batch.positions[i]));
        }
        require(position < longest, "the sequence is longer than the model can take");
        ++following_[sequence];
        num_outputs += batch.outputs[i] != 0 ? 1 : 0;
    }
    if (!options_.embeddings && num_outputs > options_.max_outputs) {
        throw std::invalid_argument("the batch asks for " + std::to_string(num_outputs) + " outputs, the most is " +
                                    std::to_string(options_.max_outputs));
    }
}

void Context::require_media(const MediaSlice & slice) {
    require(has_memory() && !options_.embeddings, "this context takes no pictures or sounds");
    require_sequence(slice.sequence);
    require(slice.piece->chunk != nullptr && slice.vectors->num_places == slice.piece->num_places,
            "the vectors are those of another piece");
    require(slice.vectors->width == llama_model_n_embd_inp(model_->handle()), "the vectors are of another width");
    const bool is_whole = slice.begin == 0 && slice.end == slice.piece->num_places;
    require(slice.begin >= 0 && slice.begin < slice.end && slice.end <= slice.piece->num_places,
            "the slice is not within its piece");
    require(is_whole || slice.piece->is_causal, "this piece has to be computed in one go");
    require(static_cast<uint32_t>(slice.end - slice.begin) <= options_.max_batch, "the slice is too long for a batch");
    const int32_t next = position_max(slice.sequence) + 1;
    // Under M-RoPE the first parts of all places may be the same position.
    const bool fits = model_->uses_mrope() ? slice.first_position + slice.piece->num_positions >= next
                                           : slice.first_position + slice.begin == next;
    require(slice.first_position >= 0 && fits, "the slice does not go on where its sequence ends");
    held_[static_cast<size_t>(slice.sequence)] = next;
}

void Context::require_output(int32_t index) const {
    const bool known = index >= 0 && static_cast<size_t>(index) < last_outputs_.size();
    require(known && last_outputs_[static_cast<size_t>(index)] != 0,
            "the last decode has no output at index " + std::to_string(index));
}

}  // namespace dmr
