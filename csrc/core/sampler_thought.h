// Ends a thought that has become too long: once it has its number of tokens, the tokens of its end tag must follow.
//
// Tags are looked for in the text, not among the tokens: a tokenizer may join a tag's last character to what follows.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/model.h"
#include "core/sampler_options.h"

namespace dmr {

class ThoughtLimit {
  public:
    // Throws std::invalid_argument for an end tag that the model has no tokens for.
    ThoughtLimit(std::shared_ptr<Model> model, const SamplerOptions & options);

    // The token that must come next; -1 = any. One that nobody could take is asked for again after the next token.
    Token forced() const;
    // Follows what was chosen, be it the forced token or another one.
    void accept(Token token);

  private:
    void begin();
    void end();
    void count();
    void force();

    std::shared_ptr<Model> model_;
    std::string            start_;
    std::string            end_;
    int32_t                budget_;
    bool                   is_open_;
    int32_t                remaining_ = 0;     // tokens; negative while a character is unfinished
    std::string            tail_;              // text that may still become a part of a tag
    std::vector<Token>     forced_;            // what is left of the end tag; empty = nothing is forced
    size_t                 num_accepted_ = 0;  // of `forced_`
};

}  // namespace dmr
