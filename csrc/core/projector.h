// What turns pictures and sounds into places of a text model's prompt: an encoder beside the model ("mmproj").
//
// Preparing a file is safe on any thread. One thread at a time may encode (abort() excepted).
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/errors.h"
#include "core/model.h"

struct ggml_tensor;
struct mtmd_context;
struct mtmd_input_chunk;
struct mtmd_bitmap;

namespace dmr {

struct ProjectorOptions {
    int32_t num_threads     = 1;
    bool    use_gpu         = true;
    int32_t min_tokens      = -1;  // of one picture; -1 = as the file says
    int32_t max_tokens      = -1;
    bool    flash_attention = true;  // where the back end has it
};

// Part of what stands for a file in a prompt: tokens of text, or places that take the vectors of `encode`.
struct MediaPiece {
    std::vector<Token> tokens;                // empty for places
    int32_t            num_places    = 0;     // vectors, each with a KV cell; 0 for text
    int32_t            num_positions = 0;     // by which what follows moves on; less than `num_places` under M-RoPE
    bool               is_causal     = true;  // else all places must be computed in one go, and see each other
    std::shared_ptr<const mtmd_input_chunk> chunk;  // of places
};

// The same without the pixels or samples that `encode` needs.
MediaPiece without_content(const MediaPiece & piece);

// The vectors of one piece: `num_places` rows of `width` floats.
struct MediaVectors {
    int32_t            num_places;
    int32_t            width;
    std::vector<float> values;
};

class Projector {
  public:
    // Throws LoadError, also where it was made for another text model.
    static std::shared_ptr<Projector> load(const std::string & path, const std::shared_ptr<Model> & model,
                                           const ProjectorOptions & options);
    ~Projector();
    Projector(const Projector &)             = delete;
    Projector & operator=(const Projector &) = delete;

    bool    sees() const;
    bool    hears() const;
    bool    uses_mrope() const;
    int32_t sample_rate() const;  // Hz of sounds; -1 = it does not hear

    // `pixels`: RGB, row by row. Throws std::invalid_argument for another number of bytes, MediaError.
    std::vector<MediaPiece> prepare_image(uint32_t width, uint32_t height, const std::string & pixels) const;
    // `file`: WAV, MP3 or FLAC; longer than `max_seconds` is refused. Throws MediaError.
    std::vector<MediaPiece> prepare_sound(const std::string & file, int32_t max_seconds) const;

    // `between` is called on this thread whenever about `slice_seconds` were computed: nothing computes meanwhile, so
    // others may. Throws std::invalid_argument for a piece of text, Cancelled after abort(), DecodeError, and what
    // `between` throws.
    MediaVectors encode(const MediaPiece & piece, const std::function<void()> & between = {});
    // The number that the next call of `encode` will have. Any thread.
    int64_t next_encode() const { return next_; }
    // Stops the encode with this number, also one that has not begun yet. Any thread.
    void abort(int64_t encode);

  private:
    explicit Projector(std::shared_ptr<Model> model) : model_(std::move(model)) {}

    std::vector<MediaPiece> pieces_of(const mtmd_bitmap * bitmap) const;
    static bool             watch(ggml_tensor * tensor, bool asks, void * projector);
    void                    begin_slice();
    bool                    end_slice();

    static constexpr int64_t no_encode     = -1;
    static constexpr double  slice_seconds = 0.02;  // what a step of others may come later

    std::shared_ptr<Model> model_;  // outlives the handle
    mtmd_context *         handle_ = nullptr;
    std::atomic<int64_t>   next_{0};
    std::atomic<int64_t>   running_{no_encode};
    std::atomic<int64_t>   unwanted_{no_encode};

    // Of the running encode, on its thread. What work takes is measured all the time.
    const std::function<void()> *         between_ = nullptr;
    std::exception_ptr                    failure_;           // of `between`
    double                                slice_work_ = 1e8;  // operations that take `slice_seconds`
    double                                work_       = 0;    // operations of the running slice
    std::chrono::steady_clock::time_point slice_began_;
};

// The positions of places [begin, end) of a piece that begins at `first_position`, as llama.cpp wants them beside
// vectors: one section after the other, 4 under M-RoPE.
std::vector<int32_t> positions_of(const MediaPiece & piece, bool uses_mrope, int32_t first_position, int32_t begin,
                                  int32_t end);

}  // namespace dmr
