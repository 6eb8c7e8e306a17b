// How deep the brackets of an answer nest, where llama-common's parsers would recurse for each of them.
#pragma once

#include <string>

namespace dmr {

// Follows a text in which a call's arguments may begin anywhere, so that it is never known whether a place stands
// inside of a string: it is read in each of the possible ways, and the deepest counts. A reading ends where no value
// can go on as the text does; brackets in prose, in strings and behind a word are no nesting.
class AnswerDepth {
  public:
    // `has_bare_keys`: the values are Gemma's, whose keys are any text and whose strings stand between <|"|>.
    explicit AnswerDepth(bool has_bare_keys) : has_bare_keys_(has_bare_keys) {}

    void follow(const char * text, size_t size);
    // Nothing that was followed so far can go on.
    void reset();
    bool is_too_deep() const { return is_too_deep_; }

  private:
    struct Reading {
        std::string open;           // brackets that are not closed yet
        char        before = '\0';  // the last character that was no space; none where a value may begin
    };

    void read(char c);
    void read_outside(char c);
    void read_bare(char c);
    void open(char c);

    Reading     outside_;  // of strings
    Reading     in_double_;
    Reading     in_single_;
    bool        is_escaped_    = false;  // the character before was a backslash that counts, in a string
    bool        has_bare_keys_ = false;
    bool        is_too_deep_   = false;
    std::string quote_;  // the beginning of <|"|>
};

}  // namespace dmr
