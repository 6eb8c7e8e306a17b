// The exceptions of the core. Wrong arguments are std::invalid_argument; all else derives from Error.
#pragma once

#include <stdexcept>
#include <string>

namespace dmr {

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A model or context that cannot be made from what was given.
struct LoadError : Error {
    using Error::Error;
};

// The caller asked a load to stop.
struct Cancelled : Error {
    using Error::Error;
};

// A batch that failed in the back end; what the memory holds afterwards must be asked anew.
struct DecodeError : Error {
    using Error::Error;
};

// A grammar or JSON Schema that cannot be used, or a token that a grammar cannot take.
struct GrammarError : Error {
    using Error::Error;
};

// A chat template that cannot be parsed, or that refuses these messages.
struct TemplateError : Error {
    using Error::Error;
};

// A picture or sound that cannot become a part of a prompt.
struct MediaError : Error {
    using Error::Error;
};

inline void require(bool condition, const std::string & message) {
    if (!condition) {
        throw std::invalid_argument(message);
    }
}

// Without making a string of the message where all is well: there are checks for each token of a step.
inline void require(bool condition, const char * message) {
    if (!condition) {
        throw std::invalid_argument(message);
    }
}

}  // namespace dmr
