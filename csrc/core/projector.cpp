#include "core/projector.h"

#include <algorithm>
#include <utility>

#include "core/log_queue.h"
#include "core/progress.h"
#include "ggml.h"
#include "llama.h"
#include "mtmd-helper.h"
#include "mtmd.h"

namespace dmr {
namespace {

using Bitmap = std::unique_ptr<mtmd_bitmap, decltype(&mtmd_bitmap_free)>;

bool begins_with(const std::string & file, size_t at, const char * magic) {
    return file.compare(at, std::char_traits<char>::length(magic), magic) == 0;
}

// As the decoder of sounds tells them apart; anything else it would take for a picture.
bool is_sound(const std::string & file) {
    const bool is_wave = file.size() >= 12 && begins_with(file, 0, "RIFF") && begins_with(file, 8, "WAVE");
    const bool is_mp3 =
        file.size() >= 3 && (begins_with(file, 0, "ID3") ||
                             (static_cast<uint8_t>(file[0]) == 0xFF && (static_cast<uint8_t>(file[1]) & 0xE0) == 0xE0));
    const bool is_flac = file.size() >= 4 && begins_with(file, 0, "fLaC");
    return is_wave || is_mp3 || is_flac;
}

std::shared_ptr<const mtmd_input_chunk> owned(mtmd_input_chunk * chunk) {
    return {chunk, [](const mtmd_input_chunk * c) { mtmd_input_chunk_free(const_cast<mtmd_input_chunk *>(c)); }};
}

MediaPiece text_piece(const mtmd_input_chunk * chunk) {
    MediaPiece   piece;
    size_t       count  = 0;
    const auto * tokens = mtmd_input_chunk_get_tokens_text(chunk, &count);
    piece.tokens.assign(tokens, tokens + count);
    piece.num_positions = static_cast<int32_t>(count);
    return piece;
}

MediaPiece places_piece(const mtmd_context * context, const mtmd_input_chunk * chunk) {
    MediaPiece piece;
    piece.num_places    = static_cast<int32_t>(mtmd_input_chunk_get_n_tokens(chunk));
    piece.num_positions = static_cast<int32_t>(mtmd_input_chunk_get_n_pos(chunk));
    piece.is_causal     = !mtmd_decode_use_non_causal(context, chunk);
    piece.chunk         = owned(mtmd_input_chunk_copy(chunk));
    return piece;
}

// Roughly how many operations a tensor takes; products of matrices are all that counts.
double work_of(const ggml_tensor & tensor) {
    const auto num_elements = static_cast<double>(ggml_nelements(&tensor));
    const bool is_product   = tensor.op == GGML_OP_MUL_MAT || tensor.op == GGML_OP_MUL_MAT_ID;
    if (tensor.op == GGML_OP_FLASH_ATTN_EXT) {
        return 4.0 * num_elements * static_cast<double>(tensor.src[1]->ne[1]);
    }
    return is_product ? 2.0 * num_elements * static_cast<double>(tensor.src[0]->ne[0]) : num_elements;
}

}  // namespace

std::shared_ptr<Projector> Projector::load(const std::string & path, const std::shared_ptr<Model> & model,
                                           const ProjectorOptions & options) {
    require(options.num_threads >= 1 && options.num_threads <= 512, "num_threads is out of range 1..512");
    std::shared_ptr<Projector> projector(new Projector(model));

    auto params              = mtmd_context_params_default();
    params.use_gpu           = options.use_gpu;
    params.print_timings     = false;
    params.n_threads         = options.num_threads;
    params.image_min_tokens  = options.min_tokens;
    params.image_max_tokens  = options.max_tokens;
    params.flash_attn_type   = options.flash_attention ? LLAMA_FLASH_ATTN_TYPE_AUTO : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.cb_eval           = watch;
    params.cb_eval_user_data = projector.get();
    forget_last_errors();
    projector->handle_ = mtmd_init_from_file(path.c_str(), model->handle(), params);
    if (projector->handle_ == nullptr) {
        throw LoadError("cannot load the projector " + path + ": " + last_errors());
    }
    return projector;
}

Projector::~Projector() {
    if (handle_ != nullptr) {
        mtmd_free(handle_);
    }
}

bool    Projector::sees() const { return mtmd_support_vision(handle_); }
bool    Projector::hears() const { return mtmd_support_audio(handle_); }
bool    Projector::uses_mrope() const { return mtmd_decode_use_mrope(handle_); }
int32_t Projector::sample_rate() const { return mtmd_get_audio_sample_rate(handle_); }

std::vector<MediaPiece> Projector::prepare_image(uint32_t width, uint32_t height, const std::string & pixels) const {
    require(width > 0 && height > 0, "a picture has at least one pixel");
    require(pixels.size() / 3 / width == height && pixels.size() == size_t{3} * width * height,
            "the picture has another number of bytes than its size says");
    if (!sees()) {
        throw MediaError("this model sees no pictures");
    }
    const Bitmap bitmap(mtmd_bitmap_init(width, height, reinterpret_cast<const unsigned char *>(pixels.data())),
                        mtmd_bitmap_free);
    return pieces_of(bitmap.get());
}

std::vector<MediaPiece> Projector::prepare_sound(const std::string & file, int32_t max_seconds) const {
    if (!hears()) {
        throw MediaError("this model hears no sounds");
    }
    if (!is_sound(file)) {
        throw MediaError("this is no sound in a known format (WAV, MP3, FLAC)");
    }
    forget_last_errors();
    const auto wrapper = mtmd_helper_bitmap_init_from_buf(handle_, reinterpret_cast<const unsigned char *>(file.data()),
                                                          file.size(), false, mtmd_helper_init_opt_default());
    const Bitmap bitmap(wrapper.bitmap, mtmd_bitmap_free);
    if (bitmap == nullptr || !mtmd_bitmap_is_audio(bitmap.get()) || mtmd_bitmap_get_n_bytes(bitmap.get()) == 0) {
        throw MediaError("the sound cannot be read" + (last_errors().empty() ? "" : ": " + last_errors()));
    }
    const auto num_samples = mtmd_bitmap_get_n_bytes(bitmap.get()) / sizeof(float);
    if (num_samples > static_cast<size_t>(max_seconds) * static_cast<size_t>(std::max(1, sample_rate()))) {
        throw MediaError("the sound is longer than " + std::to_string(max_seconds) + " seconds");
    }
    return pieces_of(bitmap.get());
}

std::vector<MediaPiece> Projector::pieces_of(const mtmd_bitmap * bitmap) const {
    const std::unique_ptr<mtmd_input_chunks, decltype(&mtmd_input_chunks_free)> chunks(mtmd_input_chunks_init(),
                                                                                       mtmd_input_chunks_free);
    mtmd_input_part                                                             part{nullptr, bitmap};
    const mtmd_input_part *                                                     parts[] = {&part};
    forget_last_errors();
    if (mtmd_tokenize_from_parts(handle_, chunks.get(), parts, 1, false) != 0) {
        throw MediaError("this cannot be prepared for the model: " + last_errors());
    }
    std::vector<MediaPiece> pieces;
    for (size_t i = 0; i < mtmd_input_chunks_size(chunks.get()); ++i) {
        const auto * chunk   = mtmd_input_chunks_get(chunks.get(), i);
        const bool   is_text = mtmd_input_chunk_get_type(chunk) == MTMD_INPUT_CHUNK_TYPE_TEXT;
        pieces.push_back(is_text ? text_piece(chunk) : places_piece(handle_, chunk));
    }
    return pieces;
}

MediaPiece without_content(const MediaPiece & piece) {
    MediaPiece light = piece;
    if (piece.chunk != nullptr) {
        light.chunk = owned(mtmd_input_chunk_get_placeholder(piece.chunk.get()));
    }
    return light;
}

MediaVectors Projector::encode(const MediaPiece & piece, const std::function<void()> & between) {
    require(piece.chunk != nullptr, "a piece of text has no vectors");
    const int64_t number = next_++;
    running_             = number;
    between_             = between ? &between : nullptr;
    failure_             = nullptr;
    begin_slice();
    forget_last_errors();
    const int32_t status = unwanted_ == number ? 1 : mtmd_encode_chunk(handle_, piece.chunk.get());
    running_             = no_encode;
    between_             = nullptr;
    if (failure_ != nullptr) {
        std::rethrow_exception(std::exchange(failure_, nullptr));
    }
    if (unwanted_ == number) {  // what came out of the part that was computed means nothing
        throw Cancelled("the encoding was cancelled");
    }
    if (status != 0) {
        throw DecodeError("a picture or sound could not be encoded: " + last_errors());
    }
    MediaVectors  vectors{piece.num_places, llama_model_n_embd_inp(model_->handle()), {}};
    const float * values = mtmd_get_output_embd(handle_);
    vectors.values.assign(values, values + size_t{1} * vectors.num_places * vectors.width);
    return vectors;
}

void Projector::abort(int64_t encode) {
    int64_t known = unwanted_;
    while (known < encode && !unwanted_.compare_exchange_weak(known, encode)) {
    }
}

// Asked before each tensor whether it is worth stopping after it; then, after it, whether to go on.
bool Projector::watch(ggml_tensor * tensor, bool asks, void * projector) {
    auto & self = *static_cast<Projector *>(projector);
    count_operation();
    if (asks) {
        self.work_ += work_of(*tensor);
        return self.work_ >= self.slice_work_;
    }
    return self.end_slice();
}

void Projector::begin_slice() {
    work_        = 0;
    slice_began_ = std::chrono::steady_clock::now();
}

// Whether to go on.
bool Projector::end_slice() {
    constexpr double                    least_seconds = 1e-4;  // below, nothing is learnt
    constexpr double                    least_work    = 1e6;
    const std::chrono::duration<double> took          = std::chrono::steady_clock::now() - slice_began_;
    if (took.count() > least_seconds) {
        slice_work_ = std::max(least_work, (slice_work_ + work_ / took.count() * slice_seconds) / 2);
    }
    if (running_ == no_encode) {  // llama.cpp tries itself out while it loads
        return true;
    }
    if (between_ != nullptr && unwanted_ != running_) {
        try {
            (*between_)();
        } catch (...) {  // nothing may be thrown through llama.cpp
            failure_ = std::current_exception();
            return false;
        }
    }
    begin_slice();
    return unwanted_ != running_;
}

std::vector<int32_t> positions_of(const MediaPiece & piece, bool uses_mrope, int32_t first_position, int32_t begin,
                                  int32_t end) {
    const auto           count = static_cast<size_t>(end - begin);
    std::vector<int32_t> positions(uses_mrope ? 4 * count : count);
    const auto *         image = mtmd_input_chunk_get_tokens_image(piece.chunk.get());
    for (size_t i = 0; i < count; ++i) {
        const int32_t place = begin + static_cast<int32_t>(i);
        if (uses_mrope && image != nullptr) {
            const auto at        = mtmd_image_tokens_get_decoder_pos(image, first_position, static_cast<size_t>(place));
            positions[i]         = static_cast<int32_t>(at.t);
            positions[i + count] = static_cast<int32_t>(at.y);
            positions[i + 2 * count] = static_cast<int32_t>(at.x);
            positions[i + 3 * count] = static_cast<int32_t>(at.z);
        } else {
            for (size_t section = 0; section < positions.size(); section += count) {
                positions[section + i] = first_position + place;
            }
        }
    }
    return positions;
}

}  // namespace dmr
