// Reads what a model answers, while it grows: content, reasoning, tool calls. llama-common's parsers do the work; they
// read a text as a whole, so most of what was told already is kept away from them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/chat_template.h"

namespace dmr {

struct ToolCallDelta {
    size_t      index;
    std::string name;       // whole, in the first delta of a call; empty afterwards
    std::string arguments;  // more of the JSON text
};

struct ChatDelta {
    std::string                content;
    std::string                reasoning;
    std::vector<ToolCallDelta> tool_calls;
};

// Follows one answer. Never fails on what a model wrote: text that fits no format is content. What the prompt has begun
// of the answer (a message that is continued) is not told again.
class ChatParser {
  public:
    // Throws std::invalid_argument when `prompt.parser` is none.
    explicit ChatParser(const ChatPrompt & prompt, bool parse_tool_calls = true);
    ~ChatParser();
    ChatParser(ChatParser &&) noexcept;

    ChatDelta feed(const std::string & text);
    // After the last text: what was held back.
    ChatDelta finish();

  private:
    struct State;
    void      begin_continued();
    void      tell_held_back(ChatDelta & delta);
    ChatDelta pass_through(const std::string & text);
    ChatDelta advance(bool is_partial);
    ChatDelta fall_back_to_text();
    void      note_told(const std::string & part);
    void      find_place(bool is_all_told);
    void      drop_told();

    std::unique_ptr<State> state_;
};

}  // namespace dmr
