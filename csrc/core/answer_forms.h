// How answers look, remembered by what decides it: the tools, the wanted form, the template's switches. Working it out
// takes llama-common tens of milliseconds, for the same result in every turn of a conversation.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "core/chat_template.h"

namespace dmr {

// The least recently used forms go first. Any thread.
class AnswerForms {
  public:
    // Null if it is not known.
    std::shared_ptr<const ChatPrompt> find(const std::string & key);
    // `form.text` is not kept.
    void keep(const std::string & key, ChatPrompt form);

  private:
    using Entry = std::pair<std::string, std::shared_ptr<const ChatPrompt>>;

    void drop_oldest();

    std::mutex       mutex_;
    std::list<Entry> entries_;  // the latest first; few enough to be searched
    size_t           num_bytes_ = 0;
};

// What decides the form of the answer to a request.
std::string form_key(const ChatRequest & request);

}  // namespace dmr
