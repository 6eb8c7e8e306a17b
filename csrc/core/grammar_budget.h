#pragma once

#include <cstddef>

namespace dmr {

// The work that one grammar may make, in nanoseconds or so: much at once, as where many alternatives begin, but little
// for each token in the long run.
class GrammarBudget {
  public:
    void spend(size_t work);  // throws GrammarError when there is none left
    void refill();            // for one more token

  private:
    size_t left_ = most;

    static constexpr size_t most      = 300000000;
    static constexpr size_t per_token = 10000000;
};

}  // namespace dmr
