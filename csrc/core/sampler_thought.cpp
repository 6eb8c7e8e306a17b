#include "core/sampler_thought.h"

#include <algorithm>

#include "core/detokenizer.h"
#include "core/errors.h"

namespace dmr {
namespace {

constexpr size_t  longest_character = 4;
constexpr int32_t longest_wait = 3;  // tokens that may finish a character; bytes that are none must not go on for ever

// How much of the end of `text` is a beginning of `tag`, which it does not hold as a whole.
size_t length_begun(const std::string & text, const std::string & tag) {
    for (size_t length = std::min(text.size(), tag.size() - 1); length > 0; --length) {
        if (text.compare(text.size() - length, length, tag, 0, length) == 0) {
            return length;
        }
    }
    return 0;
}

}  // namespace

ThoughtLimit::ThoughtLimit(std::shared_ptr<Model> model, const SamplerOptions & options)
    : model_(std::move(model)),
      start_(options.thought_start),
      end_(options.thought_end),
      budget_(options.thought_budget),
      is_open_(options.thought_is_open) {
    require(!model_->tokenize(end_, false, true).empty(), "the model has no tokens for the end of a thought");
    if (is_open_) {
        begin();
    }
}

Token ThoughtLimit::forced() const { return num_accepted_ < forced_.size() ? forced_[num_accepted_] : -1; }

void ThoughtLimit::begin() {
    is_open_   = true;
    remaining_ = budget_;
    if (remaining_ == 0) {
        force();
    }
}

void ThoughtLimit::end() {
    is_open_ = false;
    tail_.clear();
    forced_.clear();
    num_accepted_ = 0;
}

void ThoughtLimit::accept(Token token) {
    const bool was_forced = token == forced();
    tail_ += model_->piece(token, true);
    const std::string & tag = is_open_ ? end_ : start_;
    if (!tag.empty() && tail_.find(tag) != std::string::npos) {
        const bool begins = !is_open_;
        end();
        if (begins) {
            begin();
        }
        return;
    }
    const size_t longest = std::max({start_.size(), end_.size(), longest_character});
    tail_.erase(0, tail_.size() > longest ? tail_.size() - longest : 0);
    if (!is_open_) {
        return;
    }
    if (!was_forced) {
        count();
    } else if (++num_accepted_ == forced_.size()) {
        end();  // the tokens spell the tag in another way
    }
}

void ThoughtLimit::count() {
    --remaining_;
    const bool is_whole = complete_utf8_length(tail_) == tail_.size();
    if (remaining_ <= 0 && (is_whole || remaining_ <= -longest_wait)) {
        force();
    }
}

// What the model has written of the tag already is not repeated.
void ThoughtLimit::force() {
    const std::string rest = end_.substr(length_begun(tail_, end_));
    forced_                = model_->tokenize(rest, false, true);
    num_accepted_          = 0;
    // Some tokenizers put a space before a text.
    if (forced_.size() > 1 && model_->piece(forced_[0], true) == " " && rest[0] != ' ') {
        forced_.erase(forced_.begin());
    }
}

}  // namespace dmr
