#include "core/grammar_check.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

#include "core/errors.h"

namespace dmr {
namespace {

constexpr size_t   max_bytes       = 1 << 20;
constexpr size_t   max_depth       = 128;   // of groups; llama.cpp reads them recursively
constexpr size_t   max_named_rules = 8192;  // and follows references recursively
constexpr uint64_t max_repetition  = 2000;  // llama.cpp's own
// llama.cpp follows all ways in which a rule can begin and compares each with each. Where one text can follow another
// by leaving parts out, it does so again for every character and every token of the vocabulary.
constexpr uint64_t max_visits    = 1000000;
constexpr uint64_t max_texts     = 50000;
constexpr uint64_t max_ambiguity = 10000;

constexpr size_t   no_rule = std::numeric_limits<size_t>::max();
constexpr uint64_t endless = std::numeric_limits<uint64_t>::max();

struct Part {
    size_t   rule;        // no_rule: text
    bool     optional;    // {0,...}
    uint64_t num_copies;  // that llama.cpp makes of it
};

struct Rule {
    std::vector<std::vector<Part>> alternatives;
    bool                           can_be_empty = false;
};

// Reads GBNF as llama.cpp does, but for which rules it refers to only.
class Reader {
  public:
    explicit Reader(const std::string & text) : text_(text) {}

    std::vector<Rule> read() {
        skip_space(true);
        while (at_ < text_.size() && read_rule()) {
        }
        return std::move(rules_);
    }

  private:
    char now() const { return at_ < text_.size() ? text_[at_] : '\0'; }
    bool is_digit() const { return now() >= '0' && now() <= '9'; }
    bool is_word() const {
        const char c = now();
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || is_digit();
    }

    void skip_space(bool newline_ok) {
        for (; at_ < text_.size(); ++at_) {
            if (now() == '#') {
                at_ = std::min(text_.find_first_of("\r\n", at_), text_.size()) - 1;
            } else if (now() != ' ' && now() != '\t' && !(newline_ok && (now() == '\r' || now() == '\n'))) {
                return;
            }
        }
    }

    size_t new_rule() {
        rules_.emplace_back();
        return rules_.size() - 1;
    }

    size_t read_name() {
        const size_t begin = at_;
        while (is_word()) {
            ++at_;
        }
        const auto [found, is_new] = names_.emplace(text_.substr(begin, at_ - begin), rules_.size());
        if (is_new) {
            new_rule();
        }
        if (names_.size() > max_named_rules) {
            throw GrammarError("the grammar has too many rules");
        }
        return found->second;
    }

    // False: llama.cpp stops reading here.
    bool read_rule() {
        if (!is_word()) {
            return false;
        }
        const size_t rule = read_name();
        skip_space(false);
        if (text_.compare(at_, 3, "::=") != 0) {
            return false;
        }
        at_ += 3;
        skip_space(true);
        rules_[rule].alternatives.clear();  // of two rules with one name, the last counts
        if (!read_alternatives(rule, 0) || (at_ < text_.size() && now() != '\r' && now() != '\n')) {
            return false;
        }
        skip_space(true);
        return true;
    }

    bool read_alternatives(size_t rule, size_t depth) {
        if (depth > max_depth) {
            throw GrammarError("the grammar is nested too deeply");
        }
        while (true) {
            std::vector<Part> parts;
            if (!read_sequence(parts, depth)) {
                return false;
            }
            rules_[rule].alternatives.push_back(std::move(parts));
            if (now() != '|') {
                return true;
            }
            ++at_;
            skip_space(true);
        }
    }

    bool read_sequence(std::vector<Part> & parts, size_t depth) {
        while (at_ < text_.size()) {
            const char c = now();
            if (c == '"' || c == '[' || c == '<' || c == '!') {
                const size_t begin = at_;
                if (!skip_text(c)) {
                    return false;
                }
                if (c != '"' || at_ > begin + 2) {  // "" is nothing
                    parts.push_back({no_rule, false, 1});
                }
            } else if (is_word()) {
                parts.push_back({read_name(), false, 1});
            } else if (c == '.') {
                ++at_;
                parts.push_back({no_rule, false, 1});
            } else if (c == '(') {
                ++at_;
                skip_space(true);
                const size_t group = new_rule();
                if (!read_alternatives(group, depth + 1) || now() != ')') {
                    return false;
                }
                ++at_;
                parts.push_back({group, false, 1});
            } else if (c == '*' || c == '+' || c == '?' || c == '{') {
                if (!read_repetition(parts, depth > 0)) {
                    return false;
                }
            } else {
                return true;
            }
            skip_space(depth > 0);
        }
        return true;
    }

    // A literal, a class of characters, or a token.
    bool skip_text(char open) {
        const char close = open == '"' ? '"' : open == '[' ? ']' : '>';
        for (++at_; at_ < text_.size() && now() != close; ++at_) {
            at_ += now() == '\\' && close != '>' ? 1 : 0;
        }
        ++at_;
        return at_ <= text_.size();
    }

    uint64_t read_number() {
        uint64_t value = 0;
        for (; is_digit(); ++at_) {
            value = std::min<uint64_t>(value * 10 + static_cast<uint64_t>(now() - '0'), 1U << 30);
        }
        return value;
    }

    bool read_repetition(std::vector<Part> & parts, bool newline_ok) {
        const char kind = text_[at_++];
        uint64_t   low  = kind == '+' ? 1 : 0;
        uint64_t   high = kind == '?' ? 1 : endless;
        if (kind == '{') {
            skip_space(newline_ok);
            low = high = read_number();
            skip_space(newline_ok);
            if (now() == ',') {
                ++at_;
                skip_space(newline_ok);
                high = is_digit() ? read_number() : endless;
                skip_space(newline_ok);
            }
            if (now() != '}') {
                return false;
            }
            ++at_;
            if (high < low) {
                throw GrammarError("a repetition in the grammar ends before it begins");
            }
        }
        if (!parts.empty()) {
            const bool bounded      = high <= max_repetition;
            parts.back().optional   = parts.back().optional || low == 0;
            parts.back().num_copies = std::clamp<uint64_t>(bounded ? high : low, 1, max_repetition);
        }
        return true;
    }

    const std::string &           text_;
    size_t                        at_ = 0;
    std::vector<Rule>             rules_;
    std::map<std::string, size_t> names_;
};

bool can_be_empty(const std::vector<Rule> & rules, const Part & part) {
    return part.optional || (part.rule != no_rule && rules[part.rule].can_be_empty);
}

// Which rules can be empty: each time one is found, those that refer to it are looked at again.
void find_empty_rules(std::vector<Rule> & rules) {
    std::vector<std::vector<size_t>> users(rules.size());
    std::vector<size_t>              todo;
    for (size_t i = 0; i < rules.size(); ++i) {
        todo.push_back(i);
        for (const auto & parts : rules[i].alternatives) {
            for (const auto & part : parts) {
                if (part.rule != no_rule) {
                    users[part.rule].push_back(i);
                }
            }
        }
    }
    while (!todo.empty()) {
        Rule & rule  = rules[todo.back()];
        auto & again = users[todo.back()];
        todo.pop_back();
        const bool empty = !rule.can_be_empty &&
                           std::any_of(rule.alternatives.begin(), rule.alternatives.end(), [&](const auto & parts) {
                               return std::all_of(parts.begin(), parts.end(),
                                                  [&](const Part & part) { return can_be_empty(rules, part); });
                           });
        if (empty) {
            rule.can_be_empty = true;
            todo.insert(todo.end(), again.begin(), again.end());
            again.clear();
        }
    }
}

// One way to begin: with a rule or with text, perhaps after parts that were left out.
struct Beginning {
    size_t   rule;
    uint64_t num_copies;
    bool     after_gap;
    bool     can_end;  // the rule may end with it
};

std::vector<Beginning> beginnings(const std::vector<Rule> & rules, const Rule & rule) {
    std::vector<Beginning> found;
    for (const auto & parts : rule.alternatives) {
        // What follows the last part that must be there can be left out.
        size_t num_needed = parts.size();
        while (num_needed > 0 && can_be_empty(rules, parts[num_needed - 1])) {
            --num_needed;
        }
        for (size_t i = 0; i < parts.size(); ++i) {
            const auto & part  = parts[i];
            const bool   empty = part.rule != no_rule && rules[part.rule].can_be_empty;
            found.push_back({part.rule, empty ? part.num_copies : 1, i > 0, i + 1 >= num_needed});
            if (!can_be_empty(rules, part)) {
                break;
            }
        }
    }
    return found;
}

struct Counts {
    uint64_t visits    = 1;  // of rules
    uint64_t texts     = 0;  // that can come first
    uint64_t after_gap = 0;  // those of them before which something was left out
    uint64_t ending    = 0;  // those of them with which the rule may end
};

uint64_t bounded(uint64_t value) { return std::min(value, max_visits + 1); }

Counts count_beginnings(const std::vector<Beginning> & found, const std::vector<Counts> & counts) {
    Counts sum;
    for (const auto & one : found) {
        const Counts text{0, 1, 0, 1};
        const auto & each = one.rule == no_rule ? text : counts[one.rule];
        const auto   all  = bounded(one.num_copies * each.texts);
        sum.visits        = bounded(sum.visits + one.num_copies * each.visits);
        sum.texts         = bounded(sum.texts + all);
        sum.ending        = bounded(sum.ending + (one.can_end ? one.num_copies * each.ending : 0));
        sum.after_gap     = bounded(sum.after_gap + (one.after_gap ? all : all - each.texts + each.after_gap));
    }
    return sum;
}

void require_few(const Counts & counts) {
    if (counts.visits > max_visits || counts.texts > max_texts || counts.ending * counts.after_gap > max_ambiguity) {
        throw GrammarError("the grammar has too many ways to begin");
    }
}

// Looks at each rule after those it begins with. What is left over begins with itself; llama.cpp finds that only where
// it is obvious, and runs out of memory where not.
void check_beginnings(const std::vector<Rule> & rules) {
    std::vector<std::vector<Beginning>> first(rules.size());
    std::vector<std::vector<size_t>>    users(rules.size());
    std::vector<size_t>                 num_open(rules.size());
    std::vector<size_t>                 ready;
    for (size_t i = 0; i < rules.size(); ++i) {
        first[i] = beginnings(rules, rules[i]);
        for (const auto & one : first[i]) {
            if (one.rule != no_rule) {
                users[one.rule].push_back(i);
                ++num_open[i];
            }
        }
        if (num_open[i] == 0) {
            ready.push_back(i);
        }
    }
    std::vector<Counts> counts(rules.size());
    size_t              num_done = 0;
    for (; !ready.empty(); ++num_done) {
        const size_t i = ready.back();
        ready.pop_back();
        counts[i] = count_beginnings(first[i], counts);
        require_few(counts[i]);
        for (const size_t user : users[i]) {
            if (--num_open[user] == 0) {
                ready.push_back(user);
            }
        }
    }
    if (num_done < rules.size()) {
        throw GrammarError("a rule of the grammar begins with itself");
    }
}

}  // namespace

void check_grammar(const std::string & grammar) {
    if (grammar.size() > max_bytes) {
        throw GrammarError("the grammar is too long");
    }
    if (grammar.find('\0') != std::string::npos) {
        throw GrammarError("the grammar holds a zero byte");
    }
    auto rules = Reader(grammar).read();
    find_empty_rules(rules);
    check_beginnings(rules);
}

}  // namespace dmr
