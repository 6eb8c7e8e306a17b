// Steps through a grammar by characters, within a budget. See grammar.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "core/grammar_budget.h"
#include "llama-grammar.h"  // llama.cpp's own: how it keeps what it has read

namespace dmr {

// What is left to read, innermost last: one way to read the text so far. Empty: the text may end here.
using GrammarStack  = llama_grammar_stack;
using GrammarStacks = std::set<GrammarStack>;

// The characters of a token, after what earlier tokens left of a character.
struct GrammarText {
    std::vector<uint32_t> characters;
    llama_partial_utf8    rest;  // the beginning of a character; n_remain < 0: no UTF-8
};

GrammarText decode_characters(const std::string & bytes, llama_partial_utf8 before);

class GrammarWalk {
  public:
    GrammarWalk(const llama_grammar_rules & rules, GrammarBudget & budget) : rules_(rules), budget_(budget) {}

    // Which stacks take the character, in their order. All characters with one answer lead to the same.
    std::vector<bool> matches(const GrammarStacks & stacks, uint32_t character);
    // What can follow these. Like all here it throws GrammarError where the budget is used up.
    GrammarStacks after(const GrammarStacks & stacks, const std::vector<bool> & matches);
    // What can follow a token that the grammar names as a whole.
    GrammarStacks after_token(const GrammarStacks & stacks, llama_token token);
    // Whether a text may break off here, perhaps inside of a character.
    bool may_pause(const GrammarStacks & stacks, llama_partial_utf8 rest);

  private:
    void take_top(const GrammarStack & stack, const llama_grammar_element * next, GrammarStacks & result);
    void expand(GrammarStack stack, GrammarStacks & result);

    const llama_grammar_rules & rules_;
    GrammarBudget &             budget_;
    GrammarStacks               expanded_;  // by this step
};

}  // namespace dmr
