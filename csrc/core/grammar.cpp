#include "core/grammar.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "core/errors.h"
#include "core/grammar_walk.h"
#include "llama-vocab.h"  // llama.cpp's own: the texts of tokens without a copy
#include "llama.h"

namespace dmr {
namespace {

constexpr size_t max_characters = 1024;  // of one token that a grammar can take; they are followed recursively

struct Candidate {
    size_t             index;
    Token              token;
    const uint32_t *   next;
    const uint32_t *   end;
    llama_partial_utf8 rest;
};

// What may come first, for a quick no: among thousands of alternatives most begin with a letter of their own.
class Characters {
  public:
    explicit Characters(const GrammarStacks & stacks) {
        for (const auto & stack : stacks) {
            if (stack.empty()) {
                continue;
            }
            const auto * element = stack.back();
            const bool   is_one  = element->type == LLAMA_GRETYPE_CHAR && element[1].type != LLAMA_GRETYPE_CHAR_ALT &&
                                   element[1].type != LLAMA_GRETYPE_CHAR_RNG_UPPER;
            if (is_one) {
                single_.insert(element->value);
            } else {
                has_class_ = true;
            }
        }
    }

    bool may_have(uint32_t character) const { return has_class_ || single_.count(character) > 0; }

  private:
    std::unordered_set<uint32_t> single_;
    bool                         has_class_ = false;
};

// Where the candidates part: a branch for each set of stacks that some character leads on.
class Crossing {
  public:
    struct Branch {
        GrammarStacks          stacks;
        std::vector<Candidate> candidates;
    };

    Crossing(GrammarWalk & walk, const GrammarStacks & stacks) : walk_(walk), stacks_(stacks), first_(stacks) {}

    // Null: nothing takes the character.
    Branch * branch(uint32_t character) {
        const auto [place, is_new] = by_character_.try_emplace(character, nullptr);
        if (is_new && first_.may_have(character)) {
            place->second = find(character);
        }
        return place->second;
    }

    const std::map<std::vector<bool>, Branch> & branches() const { return branches_; }

  private:
    Branch * find(uint32_t character) {
        auto matches = walk_.matches(stacks_, character);
        if (std::find(matches.begin(), matches.end(), true) == matches.end()) {
            return nullptr;
        }
        const auto [place, is_new] = branches_.try_emplace(std::move(matches));
        if (is_new) {
            place->second.stacks = walk_.after(stacks_, place->first);
        }
        return &place->second;
    }

    GrammarWalk &                          walk_;
    const GrammarStacks &                  stacks_;
    Characters                             first_;
    std::map<std::vector<bool>, Branch>    branches_;
    std::unordered_map<uint32_t, Branch *> by_character_;
};

// Which candidates a grammar allows: those that lead to the same are followed as one.
class Selection {
  public:
    Selection(GrammarWalk & walk, size_t num_candidates) : walk_(walk), is_allowed_(num_candidates) {}

    void follow(const GrammarStacks & stacks, const std::vector<Candidate> & candidates, bool is_begin) {
        const bool names_tokens = is_begin && has_token(stacks);
        Crossing   crossing(walk_, stacks);
        for (auto candidate : candidates) {
            if (names_tokens && !walk_.after_token(stacks, candidate.token).empty()) {
                is_allowed_[candidate.index] = true;
            } else if (candidate.next == candidate.end) {
                is_allowed_[candidate.index] = walk_.may_pause(stacks, candidate.rest);
            } else if (auto * branch = crossing.branch(*candidate.next); branch != nullptr) {
                ++candidate.next;
                branch->candidates.push_back(candidate);
            }
        }
        for (const auto & [matches, branch] : crossing.branches()) {
            follow(branch.stacks, branch.candidates, false);
        }
    }

    bool allows(size_t index) const { return is_allowed_[index]; }

  private:
    static bool has_token(const GrammarStacks & stacks) {
        return std::any_of(stacks.begin(), stacks.end(), [](const GrammarStack & stack) {
            return !stack.empty() &&
                   (stack.back()->type == LLAMA_GRETYPE_TOKEN || stack.back()->type == LLAMA_GRETYPE_TOKEN_NOT);
        });
    }

    GrammarWalk &     walk_;
    std::vector<bool> is_allowed_;
};

GrammarStacks stacks_of(const llama_grammar & grammar) { return {grammar.stacks.begin(), grammar.stacks.end()}; }

const char * skip_blanks(const char * text) {
    while (*text != '\0' && std::strchr(" \t\r\n#", *text) != nullptr) {
        text += *text == '#' ? std::strcspn(text, "\r\n") : 1;
    }
    return text;
}

// llama.cpp writes a grammar that it cannot parse to stderr, and grammars are what users send: so it never gets one.
void check_syntax(const Model & model, const std::string & text) {
    llama_grammar_parser parser(model.vocab());
    try {
        const char * rest = skip_blanks(text.c_str());
        while (*rest != '\0') {
            rest = parser.parse_rule(rest);
        }
    } catch (const std::exception &) {  // its message has the text too
        throw GrammarError("the grammar cannot be parsed");
    }
    const auto is_undefined = [&](const llama_grammar_element & element) {
        return element.type == LLAMA_GRETYPE_RULE_REF &&
               (element.value >= parser.rules.size() || parser.rules[element.value].empty());
    };
    for (const auto & rule : parser.rules) {
        if (rule.empty() || std::any_of(rule.begin(), rule.end(), is_undefined)) {
            throw GrammarError("the grammar names a rule that it does not define");
        }
    }
}

llama_grammar * read(const Model & model, const std::string & text, const GrammarTriggers * triggers) {
    static const GrammarTriggers none;

    check_syntax(model, text);

    const auto &              given = triggers == nullptr ? none : *triggers;
    std::vector<const char *> patterns;
    for (const auto & pattern : given.patterns) {
        patterns.push_back(pattern.c_str());
    }
    try {
        return llama_grammar_init_impl(model.vocab(), text.c_str(), "root", triggers != nullptr, patterns.data(),
                                       patterns.size(), given.tokens.data(), given.tokens.size());
    } catch (const std::exception & error) {
        throw GrammarError(std::string("the grammar cannot be used: ") + error.what());
    }
}

}  // namespace

void Grammar::Free::operator()(llama_grammar * grammar) const { llama_grammar_free_impl(grammar); }

Grammar::Grammar(std::shared_ptr<Model> model, const std::string & text, const GrammarTriggers * triggers)
    : model_(std::move(model)), state_(read(*model_, text, triggers)) {
    if (state_ == nullptr) {
        throw GrammarError("the grammar cannot be parsed");
    }
}

Grammar::~Grammar() = default;

void Grammar::accept(Token token) {
    if (state_->awaiting_trigger) {
        llama_grammar_accept_impl(*state_, token);
        return;
    }
    if (model_->is_end(token)) {
        if (!may_end()) {
            throw GrammarError("the grammar does not take an end here");
        }
        return;
    }
    const auto & piece  = model_->vocab()->token_to_piece(token);
    const auto   before = stacks_of(*state_);
    const auto   text   = decode_characters(piece, state_->partial_utf8);
    GrammarWalk  walk(state_->rules, budget_);

    budget_.refill();
    auto after = before;
    for (const uint32_t character : text.characters) {
        after = walk.after(after, walk.matches(after, character));
    }
    if (!walk.may_pause(after, text.rest)) {
        after.clear();
    }
    after.merge(walk.after_token(before, token));
    if (after.empty()) {
        throw GrammarError("the grammar does not take the token '" + piece + "' here");
    }
    state_->stacks.assign(after.begin(), after.end());
    state_->partial_utf8 = text.rest;
}

bool Grammar::may_end() const {
    const auto & stacks = state_->stacks;
    return state_->partial_utf8.n_remain == 0 &&
           std::any_of(stacks.begin(), stacks.end(), [](const auto & stack) { return stack.empty(); });
}

bool Grammar::allows(Token token) {
    llama_token_data       one{token, 1.0F, 0.0F};
    llama_token_data_array array{&one, 1, -1, false};
    constrain(array);
    return one.logit != -std::numeric_limits<float>::infinity();
}

void Grammar::constrain(llama_token_data_array & candidates) {
    if (state_->awaiting_trigger) {
        return;
    }
    std::vector<GrammarText> texts;
    std::vector<Candidate>   open;
    texts.reserve(candidates.size);
    open.reserve(candidates.size);
    for (size_t i = 0; i < candidates.size; ++i) {
        const Token  token = candidates.data[i].id;
        const auto & piece = model_->vocab()->token_to_piece(token);
        if (model_->is_end(token) || piece.empty() || piece[0] == '\0' || piece.size() > max_characters) {
            continue;
        }
        const auto & text  = texts.emplace_back(decode_characters(piece, state_->partial_utf8));
        const auto * begin = text.characters.data();
        open.push_back({i, token, begin, begin + text.characters.size(), text.rest});
    }
    GrammarWalk walk(state_->rules, budget_);
    Selection   selection(walk, candidates.size);
    selection.follow(stacks_of(*state_), open, true);
    const bool end_is_allowed = may_end();
    for (size_t i = 0; i < candidates.size; ++i) {
        const bool is_end = model_->is_end(candidates.data[i].id);
        if (is_end ? !end_is_allowed : !selection.allows(i)) {
            candidates.data[i].logit = -std::numeric_limits<float>::infinity();
        }
    }
}

}  // namespace dmr
