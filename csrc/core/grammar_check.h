// Refuses the grammars that llama.cpp must not see: those it reads for ever, or with stack or memory without end.
#pragma once

#include <string>

namespace dmr {

// Throws GrammarError. Mistakes of syntax are left for llama.cpp to find.
void check_grammar(const std::string & grammar);

}  // namespace dmr
