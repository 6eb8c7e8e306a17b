// One of llama-common's answer parsers, changed to what a stream of text needs.
#pragma once

#include <array>
#include <string>

#include "peg-parser.h"  // llama-common's

namespace dmr {

struct ParserTree {
    common_peg_arena      parser;
    bool                  is_plain = false;  // whatever it reads is content
    std::array<bool, 256> begins_marker{};   // bytes with which free text may come to an end
};

// Changes, so that no text of a model's is lost and none is read twice: what follows a tool call is content; content
// that must match a schema is read as text, for a grammar has seen to it already, and without code fences.
//
// `parser`: its serialised form. `generation_prompt`: what the text always begins with. Throws std::exception for what
// is no parser.
ParserTree prepared_parser(const std::string & parser, const std::string & generation_prompt);

}  // namespace dmr
