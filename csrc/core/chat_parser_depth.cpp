#include "core/chat_parser_depth.h"

#include <cctype>
#include <string_view>
#include <utility>

namespace dmr {
namespace {

constexpr size_t max_depth = 512;

constexpr std::string_view bare_quote = "<|\"|>";

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

bool is_bracket(char c) { return c == '[' || c == '{' || c == ']' || c == '}'; }

// Letters and digits of a number or of a word such as "true".
bool is_of_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '+' || c == '.'; }

// Whether a value may stand behind this character. In an object a key comes first.
bool awaits_value(char c) { return c == '\0' || c == '[' || c == ',' || c == ':'; }

bool closes(const std::string & open, char c) { return !open.empty() && open.back() == (c == ']' ? '[' : '{'); }

}  // namespace

void AnswerDepth::follow(const char * text, size_t size) {
    for (size_t i = 0; i < size && !is_too_deep_; ++i) {
        if (has_bare_keys_) {
            read_bare(text[i]);
        } else {
            read(text[i]);
        }
    }
}

void AnswerDepth::reset() {
    outside_ = in_double_ = in_single_ = Reading();
    is_escaped_                        = false;
    quote_.clear();
}

// A quote ends the reading that took the text for a string, and begins one for the reading that did not.
void AnswerDepth::read(char c) {
    const bool was_escaped = std::exchange(is_escaped_, false);
    if (c == '\\') {
        is_escaped_ = !was_escaped;
        outside_    = Reading();
        return;
    }
    if ((c == '"' || c == '\'') && !was_escaped) {
        std::swap(outside_, c == '"' ? in_double_ : in_single_);
        outside_.before = c;
        return;
    }
    read_outside(c);
}

void AnswerDepth::read_outside(char c) {
    if (is_space(c)) {
        return;
    }
    const bool is_first     = awaits_value(outside_.before) || outside_.before == '{';
    const bool is_misplaced = (c == ',' || c == ':') && is_first;
    const bool is_known     = is_bracket(c) || is_of_word(c) || c == ',' || c == ':';
    if (!is_known || is_misplaced) {
        outside_ = Reading();
        return;
    }
    if (c == '[' || c == '{') {
        if (!awaits_value(outside_.before)) {
            outside_ = Reading();
        }
        open(c);
    } else if (is_bracket(c)) {
        if (!closes(outside_.open, c)) {
            outside_ = Reading();
            return;
        }
        outside_.open.pop_back();
    }
    outside_.before = c;
}

// Any character may belong to a key, so nothing ends this reading. A bracket that closes none is a key's.
void AnswerDepth::read_bare(char c) {
    quote_ += c;
    while (bare_quote.compare(0, quote_.size(), quote_) != 0) {
        quote_.erase(0, 1);
    }
    if (quote_ == bare_quote) {
        quote_.clear();
        std::swap(outside_, in_double_);
        outside_.before = c;
        return;
    }
    if (is_space(c)) {
        return;
    }
    if ((c == '[' || c == '{') && awaits_value(outside_.before)) {
        open(c);
    } else if ((c == ']' || c == '}') && closes(outside_.open, c)) {
        outside_.open.pop_back();
    }
    outside_.before = c;
}

void AnswerDepth::open(char c) {
    outside_.open += c;
    is_too_deep_ = is_too_deep_ || outside_.open.size() > max_depth;
}

}  // namespace dmr
