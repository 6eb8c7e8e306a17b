// A model: weights and vocabulary. Shared by the contexts made from it; the last owner frees it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/model_options.h"

struct llama_model;
struct llama_vocab;

namespace dmr {

using Token = int32_t;

class Model {
  public:
    // Called with 0..1; false stops the load.
    using Progress = std::function<bool(float)>;

    // `paths`: the file, or all shards in order. Throws LoadError, Cancelled.
    static std::shared_ptr<Model> load(const std::vector<std::string> & paths, const ModelOptions & options,
                                       const Progress & progress);

    Model(llama_model * handle, std::vector<std::string> paths);
    ~Model();
    Model(const Model &)             = delete;
    Model & operator=(const Model &) = delete;

    llama_model *       handle() const { return handle_; }
    const llama_vocab * vocab() const { return vocab_; }

    std::string                        description() const;
    std::map<std::string, std::string> metadata() const;       // scalars as text
    std::string                        chat_template() const;  // empty = the file has none
    uint64_t                           size_bytes() const;
    uint64_t                           num_parameters() const;
    int32_t                            context_length() const;  // as trained
    int32_t                            embedding_length() const;
    int32_t                            vector_length() const;  // of what an embedding gives
    int32_t                            num_layers() const;
    int32_t                            num_vocabulary() const;
    int32_t                            num_classifier_outputs() const;
    bool                               has_encoder() const;
    bool                               has_decoder() const;
    bool                               has_classifier() const;  // a head that scores; reads the files' headers
    bool                               uses_mrope() const;      // positions have several parts
    bool                               is_recurrent() const;
    bool                               is_hybrid() const;
    int32_t                            sliding_window() const;  // 0 = none
    bool                               adds_bos() const;
    bool                               adds_eos() const;
    bool                               adds_separator() const;
    Token                              bos() const;  // -1 = none
    Token                              eos() const;
    Token                              eot() const;
    Token                              separator() const;   // between the two texts of a pair
    Token                              fim_prefix() const;  // before what stands in front of the gap
    Token                              fim_suffix() const;
    Token                              fim_middle() const;
    Token                              fim_repository() const;
    Token                              fim_separator() const;
    const std::vector<Token> &         end_tokens() const { return end_tokens_; }  // all that end a generation
    bool                               is_end(Token token) const;
    bool                               is_control(Token token) const;
    // The texts that are one token with `parse_special` and plain text without it.
    std::vector<std::string> control_tokens() const;

    // `add_special`: begin/end tokens as the model wants them. `parse_special`: "<|im_end|>" in text is that token.
    std::vector<Token> tokenize(const std::string & text, bool add_special, bool parse_special) const;
    // Bytes of one token; control tokens give nothing unless `special`.
    std::string piece(Token token, bool special) const;
    std::string detokenize(const std::vector<Token> & tokens, bool remove_special, bool unparse_special) const;

    void require_token(Token token) const;  // throws std::invalid_argument

  private:
    llama_model *            handle_;
    const llama_vocab *      vocab_;
    std::vector<std::string> paths_;
    int32_t                  num_vocabulary_;
    std::vector<Token>       end_tokens_;
};

}  // namespace dmr
