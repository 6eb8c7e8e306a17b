// Tokens to text, one at a time: whole UTF-8 characters only, and nothing that may become a stop string.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/model.h"

namespace dmr {

struct DetokenizerOptions {
    std::vector<std::string> stop;              // none of them is ever emitted
    std::vector<std::string> preserved_tokens;  // control tokens whose text is wanted all the same
    bool                     special = false;   // show all control tokens
};

class Detokenizer {
  public:
    Detokenizer(std::shared_ptr<Model> model, DetokenizerOptions options);

    // The text that became certain through this token. Sets stopped_by() when a stop string is complete.
    std::string push(Token token);
    // What was held back. Bytes that are no character come out as U+FFFD.
    std::string flush();
    // Bytes of one token as it would be shown.
    std::string piece(Token token) const;
    // The stop string that ended the text, or -1. After that, push gives nothing.
    int stopped_by() const { return stopped_by_; }

  private:
    std::string take_certain(size_t searched);
    bool        find_stop(size_t searched);
    size_t      length_held_for_stop() const;

    std::shared_ptr<Model> model_;
    DetokenizerOptions     options_;
    std::set<Token>        preserved_;
    size_t                 longest_stop_ = 0;
    std::string            pending_;
    int                    stopped_by_ = -1;
};

// Replaces each maximal ill-formed run by U+FFFD (Unicode standard, section 3.9).
std::string valid_utf8(const std::string & bytes);
// Length of the longest prefix that does not end inside a character.
size_t complete_utf8_length(const std::string & bytes);

}  // namespace dmr
