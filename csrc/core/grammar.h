// A grammar at a point of its text: which tokens may come next.
//
// llama.cpp reads the grammar and waits for the triggers of a lazy one; what follows is done here, because its own walk
// keeps each way to read the text apart, again for each token of the vocabulary, without a limit: a grammar with two
// ways to read each character would hold the engine for ever. Here equal ways are one, and there is a limit.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/grammar_budget.h"
#include "core/model.h"

struct llama_grammar;
struct llama_token_data_array;

namespace dmr {

struct GrammarTriggers {
    std::vector<std::string> patterns;
    std::vector<Token>       tokens;
};

class Grammar {
  public:
    // `triggers`: null = the grammar holds from the first token. Throws GrammarError.
    Grammar(std::shared_ptr<Model> model, const std::string & text, const GrammarTriggers * triggers);
    ~Grammar();
    Grammar(const Grammar &)             = delete;
    Grammar & operator=(const Grammar &) = delete;

    // Throws GrammarError when the token is not allowed; the grammar must not be used afterwards.
    void accept(Token token);
    // Both throw GrammarError where there are too many ways to read the text.
    bool allows(Token token);
    void constrain(llama_token_data_array & candidates);  // what is not allowed gets minus infinity

  private:
    struct Free {
        void operator()(llama_grammar * grammar) const;
    };

    bool may_end() const;

    std::shared_ptr<Model>               model_;
    std::unique_ptr<llama_grammar, Free> state_;
    GrammarBudget                        budget_;
};

}  // namespace dmr
