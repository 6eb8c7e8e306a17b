#include "core/answer_forms.h"

#include <algorithm>

namespace dmr {
namespace {

constexpr size_t max_forms = 64;
constexpr size_t max_bytes = 64U << 20;

size_t bytes_of(const std::string & key, const ChatPrompt & form) {
    return key.size() + form.grammar.size() + form.parser.size();
}

}  // namespace

std::shared_ptr<const ChatPrompt> AnswerForms::find(const std::string & key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry & e) { return e.first == key; });
    if (found == entries_.end()) {
        return nullptr;
    }
    entries_.splice(entries_.begin(), entries_, found);
    return found->second;
}

void AnswerForms::keep(const std::string & key, ChatPrompt form) {
    form.text.clear();
    const size_t size = bytes_of(key, form);
    if (size > max_bytes / 8) {
        return;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    entries_.remove_if([&](const Entry & entry) {  // another thread was faster
        const bool is_same = entry.first == key;
        num_bytes_ -= is_same ? bytes_of(entry.first, *entry.second) : 0;
        return is_same;
    });
    entries_.emplace_front(key, std::make_shared<const ChatPrompt>(std::move(form)));
    num_bytes_ += size;
    while (entries_.size() > max_forms || num_bytes_ > max_bytes) {
        drop_oldest();
    }
}

void AnswerForms::drop_oldest() {
    num_bytes_ -= bytes_of(entries_.back().first, *entries_.back().second);
    entries_.pop_back();
}

std::string form_key(const ChatRequest & request) {
    std::string key = request.tool_choice;
    key += request.parallel_tool_calls ? '1' : '0';
    key += request.enable_thinking ? '1' : '0';
    key += request.add_generation_prompt ? '1' : '0';
    // Lengths keep the parts apart, whatever they hold.
    const auto add = [&](const std::string & part) { key += std::to_string(part.size()) + ':' + part; };
    add(request.tools);
    add(request.json_schema);
    for (const auto & [name, value] : request.template_kwargs) {
        add(name);
        add(value);
    }
    return key;
}

}  // namespace dmr
