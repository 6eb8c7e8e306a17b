#include "core/detokenizer.h"

#include <algorithm>

#include "core/errors.h"

namespace dmr {
namespace {

constexpr size_t max_stop_strings = 64;
constexpr size_t max_stop_bytes   = 4096;

// The bytes a well-formed character with this first byte has, and the range of its second; 0 = no first byte.
struct Lead {
    size_t        length;
    unsigned char second_low;
    unsigned char second_high;
};

Lead lead_of(unsigned char byte) {
    if (byte < 0x80) {
        return {1, 0, 0};
    }
    if (byte >= 0xC2 && byte <= 0xDF) {
        return {2, 0x80, 0xBF};
    }
    if (byte >= 0xE0 && byte <= 0xEF) {
        return {3, static_cast<unsigned char>(byte == 0xE0 ? 0xA0 : 0x80),
                static_cast<unsigned char>(byte == 0xED ? 0x9F : 0xBF)};
    }
    if (byte >= 0xF0 && byte <= 0xF4) {
        return {4, static_cast<unsigned char>(byte == 0xF0 ? 0x90 : 0x80),
                static_cast<unsigned char>(byte == 0xF4 ? 0x8F : 0xBF)};
    }
    return {0, 0, 0};
}

// How many bytes from `at` on are the beginning of one character, and whether it is whole.
struct Scanned {
    size_t length;
    bool   whole;
    bool   cut;  // well-formed so far, but the text ends
};

Scanned scan(const std::string & bytes, size_t at) {
    const Lead lead = lead_of(static_cast<unsigned char>(bytes[at]));
    if (lead.length <= 1) {
        return {1, lead.length == 1, false};
    }
    for (size_t i = 1; i < lead.length; ++i) {
        if (at + i >= bytes.size()) {
            return {i, false, true};
        }
        const auto byte = static_cast<unsigned char>(bytes[at + i]);
        const auto low  = i == 1 ? lead.second_low : 0x80;
        const auto high = i == 1 ? lead.second_high : 0xBF;
        if (byte < low || byte > high) {
            return {i, false, false};
        }
    }
    return {lead.length, true, false};
}

}  // namespace

std::string valid_utf8(const std::string & bytes) {
    std::string text;
    text.reserve(bytes.size());
    for (size_t at = 0; at < bytes.size();) {
        const Scanned character = scan(bytes, at);
        if (character.whole) {
            text.append(bytes, at, character.length);
        } else {
            text += "\xEF\xBF\xBD";
        }
        at += character.length;
    }
    return text;
}

size_t complete_utf8_length(const std::string & bytes) {
    // A character that is cut has at most three bytes here.
    for (size_t back = 1; back <= 3 && back <= bytes.size(); ++back) {
        const size_t at = bytes.size() - back;
        if (lead_of(static_cast<unsigned char>(bytes[at])).length > 1) {
            return scan(bytes, at).cut ? at : bytes.size();
        }
    }
    return bytes.size();
}

Detokenizer::Detokenizer(std::shared_ptr<Model> model, DetokenizerOptions options)
    : model_(std::move(model)), options_(std::move(options)) {
    require(options_.stop.size() <= max_stop_strings, "there are too many stop strings");
    for (const auto & stop : options_.stop) {
        require(!stop.empty() && stop.size() <= max_stop_bytes, "a stop string is empty or too long");
        longest_stop_ = std::max(longest_stop_, stop.size());
    }
    for (const auto & text : options_.preserved_tokens) {
        if (const auto ids = model_->tokenize(text, false, true); ids.size() == 1) {
            preserved_.insert(ids[0]);
        }
    }
}

std::string Detokenizer::piece(Token token) const {
    return model_->piece(token, options_.special || preserved_.count(token) > 0);
}

std::string Detokenizer::push(Token token) {
    const std::string more = piece(token);
    if (stopped_by_ >= 0 || more.empty()) {
        return "";
    }
    const size_t searched = pending_.size();
    pending_ += more;
    return take_certain(searched);
}

std::string Detokenizer::take_certain(size_t searched) {
    if (find_stop(searched)) {
        return flush();
    }
    const size_t certain = complete_utf8_length(pending_.substr(0, pending_.size() - length_held_for_stop()));
    std::string  text    = pending_.substr(0, certain);
    pending_.erase(0, certain);
    return valid_utf8(text);
}

// The stop string that begins first; of several, the one that was named first.
bool Detokenizer::find_stop(size_t searched) {
    const size_t from  = searched > longest_stop_ ? searched - longest_stop_ : 0;
    size_t       first = std::string::npos;
    for (size_t i = 0; i < options_.stop.size(); ++i) {
        const size_t at = pending_.find(options_.stop[i], from);
        if (at < first) {
            first       = at;
            stopped_by_ = static_cast<int>(i);
        }
    }
    if (stopped_by_ >= 0) {
        pending_.resize(first);
    }
    return stopped_by_ >= 0;
}

size_t Detokenizer::length_held_for_stop() const {
    for (size_t length = std::min(longest_stop_, pending_.size()); length > 0; --length) {
        const size_t at = pending_.size() - length;
        for (const auto & stop : options_.stop) {
            if (length < stop.size() && pending_.compare(at, length, stop, 0, length) == 0) {
                return length;
            }
        }
    }
    return 0;
}

std::string Detokenizer::flush() {
    std::string text = valid_utf8(pending_);
    pending_.clear();
    return text;
}

}  // namespace dmr
