#include "core/chat_template.h"

#include <algorithm>
#include <cctype>
#include <stdexcept>

#include "chat.h"  // llama-common's
#include "core/errors.h"
#include "json-schema-to-grammar.h"

namespace dmr {
namespace {

constexpr size_t max_json_bytes = 1U << 28;
constexpr int    max_json_depth = 128;

constexpr size_t max_template_bytes = 1U << 20;
constexpr size_t max_template_depth = 256;
constexpr size_t max_template_terms = 2000;  // names, numbers and operators of one tag
constexpr size_t max_template_tags  = 4000;

constexpr size_t max_answer_depth = 512;

constexpr size_t max_schema_bytes      = 1U << 18;
constexpr int    max_schema_depth      = 48;
constexpr size_t max_schema_properties = 256;  // of one object; the grammar grows with their square

// llama-common's trees are walked recursively, so depth is bounded before anything is parsed.
common_json parse_json(const std::string & text, const char * what) {
    require(text.size() <= max_json_bytes, std::string(what) + " is too long");
    int  depth     = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (in_string) {
            i += c == '\\' ? 1 : 0;
            in_string = c != '"';
            continue;
        }
        in_string = c == '"';
        depth += c == '{' || c == '[' ? 1 : 0;
        depth -= c == '}' || c == ']' ? 1 : 0;
        require(depth <= max_json_depth, std::string(what) + " is nested too deeply");
    }
    try {
        return common_json::parse(text);
    } catch (const std::exception & error) {
        throw std::invalid_argument(std::string(what) + " is not valid JSON: " + error.what());
    }
}

// Bounds what llama-common's converter takes exponential time or endless memory for.
void check_schema(const common_json & schema, int depth) {
    if (depth > max_schema_depth) {
        throw GrammarError("the JSON Schema is nested too deeply");
    }
    if (schema.is_object() || schema.is_array()) {
        for (const auto & item : schema.items()) {
            if (schema.is_object() && item.key() == "properties" && item.value().size() > max_schema_properties) {
                throw GrammarError("the JSON Schema has an object with more than " +
                                   std::to_string(max_schema_properties) + " properties");
            }
            check_schema(item.value(), depth + 1);
        }
    }
}

common_json parse_schema(const std::string & text) {
    if (text.size() > max_schema_bytes) {
        throw GrammarError("the JSON Schema is too long");
    }
    auto schema = parse_json(text, "the JSON Schema");
    check_schema(schema, 0);
    return schema;
}

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// The end of a tag whose inside begins at `at`.
size_t check_tag(const std::string & source, size_t at) {
    size_t depth = 0;
    size_t terms = 0;
    for (; at < source.size(); ++at) {
        const char c = source[at];
        if (c == '"' || c == '\'') {
            for (++at; at < source.size() && source[at] != c; ++at) {
                at += source[at] == '\\' ? 1 : 0;
            }
        } else if (depth == 0 && (c == '}' || c == '%') && source.compare(at + 1, 1, "}") == 0) {
            return at + 1;
        }
        depth += c == '(' || c == '[' || c == '{' ? 1 : 0;
        depth -= (c == ')' || c == ']' || c == '}') && depth > 0 ? 1 : 0;
        const bool goes_on = is_word(c) && is_word(source[at - 1]);
        terms += goes_on || std::isspace(static_cast<unsigned char>(c)) != 0 ? 0 : 1;
        if (depth > max_template_depth || terms > max_template_terms) {
            throw TemplateError("the chat template is nested too deeply");
        }
    }
    return at;
}

// The template parser recurses for each block, each bracket and each operator.
void check_template(const std::string & source) {
    if (source.size() > max_template_bytes) {
        throw TemplateError("the chat template is too long");
    }
    size_t tags = 0;
    for (size_t at = source.find('{'); at != std::string::npos; at = source.find('{', at + 1)) {
        if (source.compare(at, 2, "{#") == 0) {
            at = std::min(source.find("#}", at + 2), source.size());
        } else if (source.compare(at, 2, "{{") == 0 || source.compare(at, 2, "{%") == 0) {
            at = check_tag(source, at + 2);
            ++tags;
        }
        if (tags > max_template_tags) {
            throw TemplateError("the chat template has too many tags");
        }
    }
}

common_chat_tool_choice tool_choice_of(const std::string & name) {
    require(name == "auto" || name == "none" || name == "required", "unknown tool_choice: " + name);
    return common_chat_tool_choice_parse_oaicompat(name);
}

common_chat_templates_inputs inputs_of(const ChatRequest & request) {
    common_chat_templates_inputs inputs;
    try {
        inputs.messages = common_chat_msgs_parse_oaicompat(parse_json(request.messages, "messages"));
        if (!request.tools.empty()) {
            inputs.tools = common_chat_tools_parse_oaicompat(parse_json(request.tools, "tools"));
        }
        for (const auto & tool : inputs.tools) {
            parse_schema(tool.parameters);
        }
    } catch (const GrammarError & error) {
        throw std::invalid_argument(error.what());
    } catch (const std::runtime_error & error) {
        throw std::invalid_argument(error.what());
    }
    if (!request.json_schema.empty()) {
        parse_schema(request.json_schema);
    }
    for (const auto & [key, value] : request.template_kwargs) {
        parse_json(value, "template_kwargs");
    }
    inputs.tool_choice           = tool_choice_of(request.tool_choice);
    inputs.parallel_tool_calls   = request.parallel_tool_calls;
    inputs.enable_thinking       = request.enable_thinking;
    inputs.add_generation_prompt = request.add_generation_prompt;
    inputs.json_schema           = request.json_schema;
    inputs.grammar               = request.grammar;
    inputs.chat_template_kwargs  = request.template_kwargs;
    inputs.reasoning_format      = COMMON_REASONING_FORMAT_DEEPSEEK;
    // Templates ask for it by this name.
    inputs.chat_template_kwargs.emplace("enable_thinking", request.enable_thinking ? "true" : "false");
    return inputs;
}

GrammarTrigger trigger_of(const common_grammar_trigger & trigger) {
    switch (trigger.type) {
        case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN:      return {GrammarTrigger::Kind::pattern, trigger.value};
        case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL: return {GrammarTrigger::Kind::full_pattern, trigger.value};
        default:                                       return {GrammarTrigger::Kind::word, trigger.value};
    }
}

bool starts_with(const std::string & text, const std::string & beginning) {
    return text.compare(0, beginning.size(), beginning) == 0;
}

// What `now` has beyond `before`; nothing while a partial parse looks back on itself.
std::string growth(const std::string & before, const std::string & now) {
    return starts_with(now, before) ? now.substr(before.size()) : "";
}

}  // namespace

ChatTemplate::ChatTemplate(const std::string & source, const std::string & bos, const std::string & eos, bool adds_bos)
    : templates_(nullptr, common_chat_templates_free), bos_(bos), adds_bos_(adds_bos) {
    check_template(source);
    try {
        templates_.reset(common_chat_templates_init(nullptr, source.empty() ? "chatml" : source, bos, eos).release());
    } catch (const std::exception & error) {
        throw TemplateError(std::string("the chat template cannot be parsed: ") + error.what());
    }
}

ChatTemplate::~ChatTemplate() = default;

ChatPrompt ChatTemplate::render(const ChatRequest & request) const {
    const auto         inputs = inputs_of(request);
    common_chat_params params;
    try {
        params = common_chat_templates_apply(templates_.get(), inputs);
    } catch (const std::exception & error) {
        throw TemplateError(std::string("the chat template refuses this conversation: ") + error.what());
    }
    ChatPrompt prompt;
    prompt.text = params.prompt;
    // The tokenizer adds this token itself.
    if (adds_bos_ && !bos_.empty() && starts_with(prompt.text, bos_)) {
        prompt.text.erase(0, bos_.size());
    }
    if (!request.grammar.empty()) {
        prompt.grammar = request.grammar;
    } else {
        prompt.grammar      = params.grammar;
        prompt.grammar_lazy = params.grammar_lazy;
        // llama-common's grammars begin with what the template already wrote of the answer.
        prompt.grammar_prefill = params.grammar_lazy ? "" : params.generation_prompt;
        for (const auto & trigger : params.grammar_triggers) {
            prompt.grammar_triggers.push_back(trigger_of(trigger));
        }
    }
    prompt.preserved_tokens  = params.preserved_tokens;
    prompt.stop              = params.additional_stops;
    prompt.format            = static_cast<int>(params.format);
    prompt.generation_prompt = params.generation_prompt;
    prompt.parser            = params.parser;
    prompt.supports_thinking = params.supports_thinking;
    return prompt;
}

std::map<std::string, bool> ChatTemplate::capabilities() const {
    return common_chat_templates_get_caps(templates_.get());
}

bool ChatTemplate::supports_thinking() const { return common_chat_templates_support_enable_thinking(templates_.get()); }

struct ChatParser::State {
    common_chat_parser_params params;
    std::string               text;
    common_chat_msg           told;             // what the deltas so far add up to
    size_t                    num_told    = 0;  // bytes of the text up to the end of what was told of it last
    size_t                    depth       = 0;  // of brackets, wherever they stand
    bool                      is_too_deep = false;
};

ChatParser::ChatParser(const ChatPrompt & prompt, bool parse_tool_calls) : state_(std::make_unique<State>()) {
    require(prompt.format >= 0 && prompt.format < COMMON_CHAT_FORMAT_COUNT, "unknown chat format");
    auto & params            = state_->params;
    params.format            = static_cast<common_chat_format>(prompt.format);
    params.reasoning_format  = COMMON_REASONING_FORMAT_DEEPSEEK;
    params.generation_prompt = prompt.generation_prompt;
    params.parse_tool_calls  = parse_tool_calls;
    if (!prompt.parser.empty()) {
        try {
            params.parser.load(prompt.parser);
        } catch (const std::exception & error) {
            throw std::invalid_argument(std::string("this is not a chat parser: ") + error.what());
        }
    }
}

ChatParser::~ChatParser()                      = default;
ChatParser::ChatParser(ChatParser &&) noexcept = default;

ChatDelta ChatParser::feed(const std::string & text) {
    auto & state = *state_;
    state.text += text;
    // The parser recurses for each bracket of a call's arguments, and a model can be talked into any number of them.
    for (const char c : text) {
        state.depth += c == '[' || c == '{' ? 1 : 0;
        state.depth -= (c == ']' || c == '}') && state.depth > 0 ? 1 : 0;
        state.is_too_deep = state.is_too_deep || state.depth > max_answer_depth;
    }
    return state.is_too_deep ? fall_back_to_text() : advance(true);
}

ChatDelta ChatParser::finish() { return state_->is_too_deep ? fall_back_to_text() : advance(false); }

ChatDelta ChatParser::advance(bool is_partial) {
    auto &          told = state_->told;
    ChatDelta       delta;
    common_chat_msg now;
    try {
        now = common_chat_parse(state_->text, is_partial, state_->params);
    } catch (const std::exception &) {
        if (!is_partial) {
            return fall_back_to_text();
        }
        return delta;
    }
    delta.reasoning = growth(told.reasoning_content, now.reasoning_content);
    delta.content   = growth(told.content, now.content);
    told.reasoning_content += delta.reasoning;
    told.content += delta.content;
    note_told(delta.reasoning);
    note_told(delta.content);
    for (size_t i = 0; i < now.tool_calls.size(); ++i) {
        const auto & call = now.tool_calls[i];
        // A name may still grow; it is certain once something follows it.
        const bool certain = !is_partial || !call.arguments.empty() || i + 1 < now.tool_calls.size();
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
    return delta;
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
    auto &    told = state_->told;
    ChatDelta delta;
    if (told.tool_calls.empty()) {
        delta.content    = state_->text.substr(state_->num_told);
        state_->num_told = state_->text.size();
        told.content += delta.content;
    }
    return delta;
}

std::string grammar_from_schema(const std::string & schema) {
    const auto tree = parse_schema(schema);
    try {
        return json_schema_to_grammar(tree);
    } catch (const std::exception & error) {
        throw GrammarError(std::string("the JSON Schema cannot be turned into a grammar: ") + error.what());
    }
}

}  // namespace dmr
