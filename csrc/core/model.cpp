#include "core/model.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <system_error>

#include "core/errors.h"
#include "core/extra_buffers.h"
#include "core/log_queue.h"
#include "gguf.h"
#include "llama.h"

namespace dmr {
namespace {

struct LoadProgress {
    const Model::Progress & report;
    bool                    cancelled = false;
};

bool on_progress(float fraction, void * data) {
    auto & progress = *static_cast<LoadProgress *>(data);
    if (progress.report && !progress.report(fraction)) {
        progress.cancelled = true;
    }
    return !progress.cancelled;
}

// llama.cpp's "fill this buffer, or tell me the size" calls.
template <typename Call> std::string sized_text(Call call) {
    std::string text(256, '\0');
    int32_t     length = call(text.data(), text.size());
    if (length < 0) {
        return "";
    }
    if (static_cast<size_t>(length) >= text.size()) {
        text.resize(static_cast<size_t>(length) + 1);
        length = call(text.data(), text.size());
    }
    text.resize(static_cast<size_t>(length));
    return text;
}

// A pipe would be waited for without end.
void require_readable(const std::string & path) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) {
        throw LoadError(path + (std::filesystem::exists(path, error) ? " is not a regular file" : " does not exist"));
    }
    std::FILE * file = std::fopen(path.c_str(), "rb");
    if (file == nullptr) {
        throw LoadError("cannot open " + path);
    }
    std::fclose(file);
}

bool has_tensor(const std::string & path, std::initializer_list<const char *> names) {
    const std::unique_ptr<gguf_context, decltype(&gguf_free)> file(gguf_init_from_file(path.c_str(), {true, nullptr}),
                                                                   gguf_free);
    return file != nullptr && std::any_of(names.begin(), names.end(),
                                          [&](const char * name) { return gguf_find_tensor(file.get(), name) >= 0; });
}

}  // namespace

std::shared_ptr<Model> Model::load(const std::vector<std::string> & paths, const ModelOptions & options,
                                   const Progress & progress) {
    require(!paths.empty(), "a model needs at least one file");
    std::vector<const char *> names;
    for (const auto & path : paths) {
        require_readable(path);
        names.push_back(path.c_str());
    }
    LoadProgress state{progress};

    ModelParams holder(options);
    auto &      params                 = holder.get();
    params.progress_callback           = on_progress;
    params.progress_callback_user_data = &state;

    params.use_extra_bufts = params.use_extra_bufts && !params.vocab_only && !is_wrong_on_amx(names[0]);

    forget_last_errors();
    llama_model * handle = names.size() == 1 ? llama_model_load_from_file(names[0], params)
                                             : llama_model_load_from_splits(names.data(), names.size(), params);
    if (handle == nullptr) {
        if (state.cancelled) {
            throw Cancelled("the load was cancelled");
        }
        throw LoadError("cannot load " + paths.front() + ": " + last_errors());
    }
    return std::make_shared<Model>(handle, paths);
}

Model::Model(llama_model * handle, std::vector<std::string> paths)
    : handle_(handle),
      vocab_(llama_model_get_vocab(handle)),
      paths_(std::move(paths)),
      num_vocabulary_(llama_vocab_n_tokens(vocab_)) {
    for (Token token = 0; token < num_vocabulary_; ++token) {
        if (llama_vocab_is_eog(vocab_, token)) {
            end_tokens_.push_back(token);
        }
    }
}

Model::~Model() { llama_model_free(handle_); }

std::string Model::description() const {
    return sized_text([&](char * buffer, size_t size) { return llama_model_desc(handle_, buffer, size); });
}

std::map<std::string, std::string> Model::metadata() const {
    std::map<std::string, std::string> values;
    for (int32_t i = 0; i < llama_model_meta_count(handle_); ++i) {
        auto key = sized_text(
            [&](char * buffer, size_t size) { return llama_model_meta_key_by_index(handle_, i, buffer, size); });
        values[key] = sized_text(
            [&](char * buffer, size_t size) { return llama_model_meta_val_str_by_index(handle_, i, buffer, size); });
    }
    return values;
}

std::string Model::chat_template() const {
    const char * text = llama_model_chat_template(handle_, nullptr);
    return text == nullptr ? "" : text;
}

uint64_t Model::size_bytes() const { return llama_model_size(handle_); }
uint64_t Model::num_parameters() const { return llama_model_n_params(handle_); }
int32_t  Model::context_length() const { return llama_model_n_ctx_train(handle_); }
int32_t  Model::embedding_length() const { return llama_model_n_embd(handle_); }
int32_t  Model::vector_length() const { return llama_model_n_embd_out(handle_); }
int32_t  Model::num_layers() const { return llama_model_n_layer(handle_); }
int32_t  Model::num_vocabulary() const { return num_vocabulary_; }
int32_t  Model::num_classifier_outputs() const { return static_cast<int32_t>(llama_model_n_cls_out(handle_)); }
bool     Model::has_encoder() const { return llama_model_has_encoder(handle_); }
bool     Model::has_decoder() const { return llama_model_has_decoder(handle_); }
bool     Model::uses_mrope() const {
    const auto type = llama_model_rope_type(handle_);
    return type == LLAMA_ROPE_TYPE_MROPE || type == LLAMA_ROPE_TYPE_IMROPE;
}
bool    Model::is_recurrent() const { return llama_model_is_recurrent(handle_); }
bool    Model::is_hybrid() const { return llama_model_is_hybrid(handle_); }
int32_t Model::sliding_window() const { return llama_model_n_swa(handle_); }
bool    Model::adds_bos() const { return llama_vocab_get_add_bos(vocab_); }
bool    Model::adds_eos() const { return llama_vocab_get_add_eos(vocab_); }
bool    Model::adds_separator() const { return llama_vocab_get_add_sep(vocab_); }
Token   Model::bos() const { return llama_vocab_bos(vocab_); }
Token   Model::eos() const { return llama_vocab_eos(vocab_); }
Token   Model::eot() const { return llama_vocab_eot(vocab_); }
Token   Model::separator() const { return llama_vocab_sep(vocab_); }
Token   Model::fim_prefix() const { return llama_vocab_fim_pre(vocab_); }
Token   Model::fim_suffix() const { return llama_vocab_fim_suf(vocab_); }
Token   Model::fim_middle() const { return llama_vocab_fim_mid(vocab_); }
Token   Model::fim_repository() const { return llama_vocab_fim_rep(vocab_); }
Token   Model::fim_separator() const { return llama_vocab_fim_sep(vocab_); }

bool Model::has_classifier() const {
    return std::any_of(paths_.begin(), paths_.end(),
                       [](const std::string & path) { return has_tensor(path, {"cls.weight", "cls.output.weight"}); });
}

bool Model::is_end(Token token) const {
    require_token(token);
    return llama_vocab_is_eog(vocab_, token);
}

bool Model::is_control(Token token) const {
    require_token(token);
    return llama_vocab_is_control(vocab_, token);
}

std::vector<std::string> Model::control_tokens() const {
    // The tokenizer leaves unknown tokens alone as it does control tokens; user-defined ones it always reads.
    constexpr int            hidden = LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN;
    std::vector<std::string> texts;
    for (Token token = 0; token < num_vocabulary_; ++token) {
        if ((llama_vocab_get_attr(vocab_, token) & hidden) != 0) {
            texts.emplace_back(llama_vocab_get_text(vocab_, token));
        }
    }
    return texts;
}

std::vector<Token> Model::tokenize(const std::string & text, bool add_special, bool parse_special) const {
    require(text.size() <= static_cast<size_t>(std::numeric_limits<int32_t>::max() / 2), "the text is too long");
    require(num_vocabulary_ > 0, "the model has no vocabulary");
    const auto         length = static_cast<int32_t>(text.size());
    std::vector<Token> tokens(text.size() / 3 + 16);
    int32_t count = llama_tokenize(vocab_, text.data(), length, tokens.data(), static_cast<int32_t>(tokens.size()),
                                   add_special, parse_special);
    require(count != std::numeric_limits<int32_t>::min(), "the text is too long");
    if (count < 0) {
        tokens.resize(static_cast<size_t>(-count));
        count = llama_tokenize(vocab_, text.data(), length, tokens.data(), static_cast<int32_t>(tokens.size()),
                               add_special, parse_special);
    }
    if (count < 0) {
        throw Error("the tokenizer failed");
    }
    tokens.resize(static_cast<size_t>(count));
    return tokens;
}

std::string Model::piece(Token token, bool special) const {
    require_token(token);
    std::string text(32, '\0');
    int32_t length = llama_token_to_piece(vocab_, token, text.data(), static_cast<int32_t>(text.size()), 0, special);
    if (length < 0) {
        text.resize(static_cast<size_t>(-length));
        length = llama_token_to_piece(vocab_, token, text.data(), static_cast<int32_t>(text.size()), 0, special);
    }
    text.resize(length > 0 ? static_cast<size_t>(length) : 0);
    return text;
}

std::string Model::detokenize(const std::vector<Token> & tokens, bool remove_special, bool unparse_special) const {
    for (Token token : tokens) {
        require_token(token);
    }
    require(tokens.size() <= static_cast<size_t>(std::numeric_limits<int32_t>::max() / 64), "too many tokens");
    const auto  count = static_cast<int32_t>(tokens.size());
    std::string text(tokens.size() * 8 + 16, '\0');
    int32_t     length = llama_detokenize(vocab_, tokens.data(), count, text.data(), static_cast<int32_t>(text.size()),
                                          remove_special, unparse_special);
    if (length < 0) {
        text.resize(static_cast<size_t>(-length));
        length = llama_detokenize(vocab_, tokens.data(), count, text.data(), static_cast<int32_t>(text.size()),
                                  remove_special, unparse_special);
    }
    text.resize(length > 0 ? static_cast<size_t>(length) : 0);
    return text;
}

void Model::require_token(Token token) const {
    if (token < 0 || token >= num_vocabulary_) {
        throw std::invalid_argument("token " + std::to_string(token) + " is not in the vocabulary of " +
                                    std::to_string(num_vocabulary_) + " tokens");
    }
}

}  // namespace dmr
