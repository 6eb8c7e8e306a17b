#include "core/chat_parser.h"

#include <algorithm>
#include <stdexcept>

#include "chat.h"  // llama-common's
#include "core/chat_parser_depth.h"
#include "core/chat_parser_tree.h"
#include "core/errors.h"

namespace dmr {
namespace {

// Text that is told already is dropped in pieces: this much stays at its two ends, for the parser to stand in the same
// place as before.
constexpr size_t kept_before = 32;
constexpr size_t kept_behind = 128;
constexpr size_t drop_size   = 512;

// A text that cannot be shortened (a call's arguments) is parsed again after it has grown by a 32nd.
constexpr size_t growth_share    = 32;
constexpr size_t unknown_allowed = 4096;  // of text in no known place, before the same holds for it

constexpr char no_tag = '\x01';

constexpr size_t certain_length = 16;  // of equal bytes at two ends, to say that they are the same text

bool starts_with(const std::string & text, const std::string & beginning) {
    return text.compare(0, beginning.size(), beginning) == 0;
}

// What `now` has beyond `before`; nothing while a partial parse looks back on itself.
std::string growth(const std::string & before, const std::string & now) {
    return starts_with(now, before) ? now.substr(before.size()) : "";
}

// How many bytes at the ends of two texts are equal.
size_t common_suffix(const std::string & a, const std::string & b) {
    const size_t most = std::min(a.size(), b.size());
    size_t       size = 0;
    while (size < most && a[a.size() - 1 - size] == b[b.size() - 1 - size]) {
        ++size;
    }
    return size;
}

// Whether what was told as a call is something else after all.
bool takes_back_a_call(const common_chat_msg & told, const common_chat_msg & now) {
    for (size_t i = 0; i < told.tool_calls.size(); ++i) {
        if (i >= now.tool_calls.size() || now.tool_calls[i].name != told.tool_calls[i].name) {
            return true;
        }
        const auto & before = told.tool_calls[i].arguments;
        const auto & after  = now.tool_calls[i].arguments;
        if (!starts_with(after, before) && !starts_with(before, after)) {
            return true;
        }
    }
    return false;
}

bool is_inside_character(char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U; }

}  // namespace

struct ChatParser::State {
    enum class Place { unknown, content, reasoning, call };

    common_chat_parser_params params;
    ParserTree                tree;
    std::string               text;             // what the prompt began and the answer, without what was dropped
    common_chat_msg           told;             // what the deltas so far add up to, without what was dropped
    size_t                    num_told    = 0;  // bytes of the text up to the end of what was told of it last
    size_t                    num_pending = 0;  // bytes at its end that were not parsed yet
    size_t                    num_run     = 0;  // bytes at its end that are one piece of content or reasoning, all told
    size_t                    next_drop   = drop_size;  // size of the text
    Place                     place       = Place::unknown;
    AnswerDepth               depth;

    explicit State(common_chat_format format) : depth(format == COMMON_CHAT_FORMAT_PEG_GEMMA4) {
        params.format = format;
    }

    std::string & told_here() { return place == Place::content ? told.content : told.reasoning_content; }

    common_chat_msg parse(const std::string & whole, bool is_partial) const {
        return common_chat_parse(whole, is_partial, params);
    }
};

ChatParser::ChatParser(const ChatPrompt & prompt, bool parse_tool_calls) {
    require(prompt.format >= 0 && prompt.format < COMMON_CHAT_FORMAT_COUNT, "unknown chat format");
    state_                        = std::make_unique<State>(static_cast<common_chat_format>(prompt.format));
    auto & state                  = *state_;
    state.params.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
    state.params.parse_tool_calls = parse_tool_calls;
    state.tree.is_plain           = prompt.parser.empty();
    if (!prompt.parser.empty()) {
        try {
            state.tree          = prepared_parser(prompt.parser, prompt.generation_prompt);
            state.params.parser = std::move(state.tree.parser);
        } catch (const std::exception & error) {
            throw std::invalid_argument(std::string("this is not a chat parser: ") + error.what());
        }
    }
    state.text                   = prompt.generation_prompt;
    state.num_told               = state.text.size();
    state.told.content           = prompt.continued_content;
    state.told.reasoning_content = prompt.continued_reasoning;
    if (!state.tree.is_plain && !(prompt.continued_content.empty() && prompt.continued_reasoning.empty())) {
        begin_continued();
    }
}

ChatParser::~ChatParser()                      = default;
ChatParser::ChatParser(ChatParser &&) noexcept = default;

// A template may have changed what is continued; then its form counts.
void ChatParser::begin_continued() {
    auto & state = *state_;
    try {
        const auto begun = state.parse(state.text, true);
        if (!starts_with(state.told.content, begun.content)) {
            state.told.content = begun.content;
        }
        if (!starts_with(state.told.reasoning_content, begun.reasoning_content)) {
            state.told.reasoning_content = begun.reasoning_content;
        }
    } catch (const std::exception &) {
        // What does not parse alone may do so with what follows.
    }
}

ChatDelta ChatParser::feed(const std::string & text) {
    auto & state = *state_;
    if (state.tree.is_plain) {
        return {text, "", {}};
    }
    state.text += text;
    state.num_pending += text.size();
    size_t num_free = 0;  // bytes that go on with the same content or reasoning
    if (state.num_run > 0) {
        const auto begins_marker = [&](char c) { return state.tree.begins_marker[static_cast<unsigned char>(c)]; };
        num_free = static_cast<size_t>(std::find_if(text.begin(), text.end(), begins_marker) - text.begin());
        state.depth.reset();
        if (num_free == text.size()) {
            return pass_through(text);
        }
    }
    state.depth.follow(text.data() + num_free, text.size() - num_free);
    if (state.depth.is_too_deep()) {
        return fall_back_to_text();
    }
    const size_t size       = state.text.size();
    const size_t in_unknown = size > unknown_allowed ? size - unknown_allowed : 0;
    if (state.num_pending * growth_share < (state.place == State::Place::call ? size : in_unknown)) {
        return {};
    }
    return advance(true);
}

ChatDelta ChatParser::finish() {
    if (state_->tree.is_plain) {
        return {};
    }
    if (state_->depth.is_too_deep()) {
        return fall_back_to_text();
    }
    ChatDelta delta = advance(false);
    tell_held_back(delta);
    return delta;
}

// The parser holds back what may be the beginning of a tag, at the end of the text too. One more character, which no
// tag has, shows what it is.
void ChatParser::tell_held_back(ChatDelta & delta) {
    auto & state = *state_;
    if (!state.told.tool_calls.empty() || state.num_told == state.text.size()) {
        return;
    }
    common_chat_msg now;
    try {
        now = state.parse(state.text + no_tag, false);
    } catch (const std::exception &) {
        return;  // what is held back is markup
    }
    for (auto * field : {&now.content, &now.reasoning_content}) {
        if (!field->empty() && field->back() == no_tag) {
            field->pop_back();
        }
    }
    const auto more_content   = growth(state.told.content, now.content);
    const auto more_reasoning = growth(state.told.reasoning_content, now.reasoning_content);
    const bool is_thought     = more_reasoning.find_first_not_of(" \t\r\n") != std::string::npos;
    delta.content += more_content;
    delta.reasoning += is_thought ? more_reasoning : "";
    state.num_told = state.text.size();
}

// More of the same content or reasoning: nothing in it can begin anything else.
ChatDelta ChatParser::pass_through(const std::string & text) {
    auto &    state = *state_;
    ChatDelta delta;
    state.told_here() += text;
    state.num_run += text.size();
    state.num_told                                                           = state.text.size();
    state.num_pending                                                        = 0;
    (state.place == State::Place::content ? delta.content : delta.reasoning) = text;
    drop_told();
    return delta;
}

ChatDelta ChatParser::advance(bool is_partial) {
    auto &          state = *state_;
    auto &          told  = state.told;
    ChatDelta       delta;
    common_chat_msg now;
    state.num_run     = 0;
    state.num_pending = 0;
    try {
        now = state.parse(state.text, is_partial);
    } catch (const std::exception &) {
        state.place = State::Place::unknown;
        if (!is_partial) {
            return fall_back_to_text();
        }
        return delta;
    }
    if (takes_back_a_call(told, now)) {
        state.place = State::Place::call;
        return delta;  // its text would be told twice
    }
    delta.reasoning = growth(told.reasoning_content, now.reasoning_content);
    delta.content   = growth(told.content, now.content);
    told.reasoning_content += delta.reasoning;
    told.content += delta.content;
    note_told(delta.reasoning);
    note_told(delta.content);
    for (size_t i = 0; i < now.tool_calls.size(); ++i) {
        const auto & call = now.tool_calls[i];
        // Until there are arguments (the parser itself opens them), a name may grow or turn out to be none.
        const bool certain = call.arguments.size() > 1 || i + 1 < now.tool_calls.size();
        if (call.name.empty() || !certain) {
            break;
        }
        ToolCallDelta more{i, "", ""};
        if (i == told.tool_calls.size()) {
            told.tool_calls.push_back({call.name, "", ""});
            more.name = call.name;
        }
        more.arguments = growth(told.tool_calls[i].arguments, call.arguments);
        told.tool_calls[i].arguments += more.arguments;
        if (!more.name.empty() || !more.arguments.empty()) {
            delta.tool_calls.push_back(std::move(more));
        }
    }
    find_place(now.content == told.content && now.reasoning_content == told.reasoning_content);
    drop_told();
    return delta;
}

// Where the end of the text stands, if all of that is told.
void ChatParser::find_place(bool is_all_told) {
    auto & state = *state_;
    if (!state.told.tool_calls.empty()) {
        state.place = State::Place::call;
        return;
    }
    state.place = State::Place::unknown;
    if (!is_all_told || state.num_told != state.text.size()) {
        return;  // something is held back
    }
    const bool   in_content = !state.told.content.empty();
    const auto & field      = in_content ? state.told.content : state.told.reasoning_content;
    const size_t size       = common_suffix(state.text, field);
    if (size > 0 && size >= std::min(field.size(), certain_length)) {
        state.place   = in_content ? State::Place::content : State::Place::reasoning;
        state.num_run = size;
    }
}

// Takes a piece out of the text, if the rest then reads as before.
void ChatParser::drop_told() {
    auto & state = *state_;
    if (state.num_run == 0 || state.text.size() < state.next_drop) {
        return;
    }
    state.next_drop = state.text.size() * 2;
    if (state.num_run < kept_before + 2 * kept_behind) {
        return;
    }
    auto & field = state.told_here();
    size_t begin = field.size() - state.num_run + kept_before;
    size_t end   = field.size() - kept_behind;
    while (begin < end && is_inside_character(field[begin])) {
        ++begin;
    }
    while (begin < end && is_inside_character(field[end])) {
        --end;
    }
    const size_t offset        = state.text.size() - field.size();  // of the field, were it all in one piece
    std::string  shorter_text  = state.text;
    std::string  shorter_field = field;
    shorter_text.erase(offset + begin, end - begin);
    shorter_field.erase(begin, end - begin);
    try {
        const auto now     = state.parse(shorter_text, true);
        const bool content = state.place == State::Place::content;
        if (!now.tool_calls.empty() || now.content != (content ? shorter_field : state.told.content) ||
            now.reasoning_content != (content ? state.told.reasoning_content : shorter_field)) {
            return;
        }
    } catch (const std::exception &) {
        return;
    }
    field          = std::move(shorter_field);
    state.text     = std::move(shorter_text);
    state.num_told = state.text.size();
    state.num_run -= end - begin;
    state.next_drop = state.text.size() + drop_size;
}

// A delta is a part of the text: the next one that there is.
void ChatParser::note_told(const std::string & part) {
    if (part.empty()) {
        return;
    }
    // Rather a repetition than a loss, should the same words stand in the text twice.
    size_t at = state_->text.find(part, state_->num_told);
    at        = at == std::string::npos ? state_->text.rfind(part) : at;
    if (at != std::string::npos) {
        state_->num_told = std::max(state_->num_told, at + part.size());
    }
}

// The answer fits no format: whatever was not told yet is content, unless it may belong to a call that was told.
ChatDelta ChatParser::fall_back_to_text() {
    auto &    state = *state_;
    ChatDelta delta;
    state.num_run = 0;
    if (state.told.tool_calls.empty()) {
        delta.content  = state.text.substr(state.num_told);
        state.num_told = state.text.size();
        state.told.content += delta.content;
    }
    return delta;
}

}  // namespace dmr
