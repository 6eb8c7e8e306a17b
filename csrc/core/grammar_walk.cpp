#include "core/grammar_walk.h"

#include <algorithm>
#include <utility>

#include "core/errors.h"

namespace dmr {
namespace {

using Element = llama_grammar_element;

constexpr size_t match_work  = 3;
constexpr size_t expand_work = 500;  // a stack is copied, and looked for among the others,
constexpr size_t depth_work  = 50;   // with which it has its beginning in common

bool is_end(const Element * element) {
    return element->type == LLAMA_GRETYPE_END || element->type == LLAMA_GRETYPE_ALT;
}

bool is_token(const Element * element) {
    return element->type == LLAMA_GRETYPE_TOKEN || element->type == LLAMA_GRETYPE_TOKEN_NOT;
}

struct Match {
    bool            fits;
    const Element * next;  // what stands after the class of characters
};

// Whether the class takes some character from `low` to `high`. Parts of a class that takes all but some are looked at
// one by one: several that leave out all of a range together are not noticed.
Match match_range(const Element * element, uint32_t low, uint32_t high) {
    const bool is_negative = element->type == LLAMA_GRETYPE_CHAR_NOT;
    bool       found       = false;
    do {
        const bool is_any   = element->type == LLAMA_GRETYPE_CHAR_ANY;
        const bool is_range = !is_any && element[1].type == LLAMA_GRETYPE_CHAR_RNG_UPPER;
        const auto first    = element->value;
        const auto last     = is_range ? element[1].value : first;
        const bool is_in    = is_negative ? first <= low && high <= last : first <= high && low <= last;
        found               = found || is_any || is_in;
        element += is_range ? 2 : 1;
    } while (element->type == LLAMA_GRETYPE_CHAR_ALT);
    return {found != is_negative, element};
}

// How many bytes follow a first byte; -1: none can begin a character with it.
int num_following(uint8_t byte) {
    if (byte < 0x80) {
        return 0;
    }
    if (byte < 0xC2 || byte > 0xF4) {
        return -1;
    }
    return byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
}

// Refuses what Unicode has not, and what is written longer than need be, at the second byte, which tells.
llama_partial_utf8 with_next_byte(llama_partial_utf8 begun, uint8_t byte) {
    constexpr llama_partial_utf8 wrong{0, -1};
    if ((byte & 0xC0) != 0x80) {
        return wrong;
    }
    const uint32_t value        = (begun.value << 6) | (byte & 0x3FU);
    const bool     is_third_one = begun.n_remain == 2 && begun.value >= 0x10;  // of four
    if (begun.n_remain == 3 && (value < 0x10 || value > 0x10F)) {
        return wrong;
    }
    if (begun.n_remain == 2 && !is_third_one && (value < 0x20 || value >> 5 == 0x1B)) {
        return wrong;
    }
    return {value, begun.n_remain - 1};
}

}  // namespace

GrammarText decode_characters(const std::string & bytes, llama_partial_utf8 before) {
    GrammarText text{{}, before};
    auto &      rest = text.rest;
    for (const char c : bytes) {
        const auto byte = static_cast<uint8_t>(c);
        if (rest.n_remain > 0) {
            rest = with_next_byte(rest, byte);
        } else {
            const int count = num_following(byte);
            // A first byte of n bytes holds 7 - n bits, one of one byte 7.
            rest = {count <= 0 ? byte : byte & (0x3FU >> count), count};
        }
        if (rest.n_remain < 0) {
            return {{}, rest};
        }
        if (rest.n_remain == 0) {
            text.characters.push_back(rest.value);
            rest = {0, 0};
        }
    }
    return text;
}

void GrammarBudget::spend(size_t work) {
    if (work > left_) {
        left_ = 0;
        throw GrammarError("the grammar is too ambiguous: there are too many ways to read this text with it");
    }
    left_ -= work;
}

void GrammarBudget::refill() { left_ = std::min(most, left_ + per_token); }

std::vector<bool> GrammarWalk::matches(const GrammarStacks & stacks, uint32_t character) {
    budget_.spend(match_work * stacks.size());
    std::vector<bool> found;
    found.reserve(stacks.size());
    for (const auto & stack : stacks) {
        const bool is_open = !stack.empty() && !is_token(stack.back());
        found.push_back(is_open && match_range(stack.back(), character, character).fits);
    }
    return found;
}

GrammarStacks GrammarWalk::after(const GrammarStacks & stacks, const std::vector<bool> & matches) {
    GrammarStacks result;
    expanded_.clear();
    size_t i = 0;
    for (const auto & stack : stacks) {
        if (matches[i++]) {
            take_top(stack, match_range(stack.back(), 0, 0).next, result);
        }
    }
    return result;
}

GrammarStacks GrammarWalk::after_token(const GrammarStacks & stacks, llama_token token) {
    GrammarStacks result;
    expanded_.clear();
    for (const auto & stack : stacks) {
        if (stack.empty() || !is_token(stack.back())) {
            continue;
        }
        const auto * element = stack.back();
        const bool   is_it   = element->value == static_cast<uint32_t>(token);
        if (is_it == (element->type == LLAMA_GRETYPE_TOKEN)) {
            take_top(stack, element + 1, result);
        }
    }
    return result;
}

bool GrammarWalk::may_pause(const GrammarStacks & stacks, llama_partial_utf8 rest) {
    if (rest.n_remain == 0) {
        return !stacks.empty();
    }
    if (rest.n_remain < 0) {
        return false;
    }
    budget_.spend(match_work * stacks.size());
    const uint32_t bits  = 6 * static_cast<uint32_t>(rest.n_remain);
    const uint32_t high  = (rest.value << bits) | ((1U << bits) - 1);
    const uint32_t least = rest.n_remain == 3 ? 0x10000U : rest.n_remain == 2 && rest.value == 0 ? 0x800U : 0U;
    const uint32_t low   = rest.value == 0 ? least : rest.value << bits;
    return std::any_of(stacks.begin(), stacks.end(), [&](const GrammarStack & stack) {
        return !stack.empty() && !is_token(stack.back()) && match_range(stack.back(), low, high).fits;
    });
}

void GrammarWalk::take_top(const GrammarStack & stack, const Element * next, GrammarStacks & result) {
    GrammarStack left(stack.begin(), stack.end() - 1);
    if (!is_end(next)) {
        left.push_back(next);
    }
    expand(std::move(left), result);
}

// Replaces references to rules on top by what the rules begin with.
void GrammarWalk::expand(GrammarStack stack, GrammarStacks & result) {
    std::vector<GrammarStack> todo{std::move(stack)};
    while (!todo.empty()) {
        const auto [place, is_new] = expanded_.insert(std::move(todo.back()));
        todo.pop_back();
        budget_.spend(expand_work + depth_work * place->size());
        if (!is_new) {
            continue;
        }
        if (place->empty() || place->back()->type != LLAMA_GRETYPE_RULE_REF) {
            result.insert(*place);
            continue;
        }
        const auto * reference = place->back();
        const auto * element   = rules_[reference->value].data();
        while (true) {
            GrammarStack next(place->begin(), place->end() - 1);
            if (!is_end(reference + 1)) {
                next.push_back(reference + 1);
            }
            if (!is_end(element)) {
                next.push_back(element);
            }
            todo.push_back(std::move(next));
            while (!is_end(element)) {
                ++element;
            }
            if (element->type != LLAMA_GRETYPE_ALT) {
                break;
            }
            ++element;
        }
    }
}

}  // namespace dmr
