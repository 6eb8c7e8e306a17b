#include "core/chat_template.h"

#include <algorithm>
#include <cctype>
#include <stdexcept>

#include "chat-auto-parser.h"  // llama-common's
#include "chat.h"
#include "core/answer_forms.h"
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
    if (request.continue_final) {
        inputs.continue_final_message = COMMON_CHAT_CONTINUATION_AUTO;
    }
    inputs.json_schema          = request.json_schema;
    inputs.grammar              = request.grammar;
    inputs.chat_template_kwargs = request.template_kwargs;
    inputs.reasoning_format     = COMMON_REASONING_FORMAT_DEEPSEEK;
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

// Whether llama-common has code of its own for this template. That code may change messages, so that nothing can be
// said about the next conversation.
bool is_special(const std::string & source, const std::string & bos, const std::string & eos) {
    try {
        const common_chat_template    parsed(source, bos, eos);
        autoparser::generation_params probe;
        probe.messages              = common_json::parse(R"([{"role": "user", "content": "x"}])");
        probe.extra_context         = common_json::parse("{}");
        probe.add_generation_prompt = true;
        return common_chat_try_specialized_template(parsed, source, probe).has_value();
    } catch (const std::exception &) {
        return true;
    }
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
    if (!source.empty() && !is_special(source, bos, eos)) {
        forms_ = std::make_unique<AnswerForms>();
    }
}

ChatTemplate::~ChatTemplate() = default;

common_chat_params ChatTemplate::apply(const common_chat_templates_inputs & inputs) const {
    try {
        return common_chat_templates_apply(templates_.get(), inputs);
    } catch (const std::exception & error) {
        throw TemplateError(std::string("the chat template refuses this conversation: ") + error.what());
    }
}

std::string ChatTemplate::without_bos(const std::string & text) const {
    // The tokenizer adds this token itself.
    return adds_bos_ && !bos_.empty() && starts_with(text, bos_) ? text.substr(bos_.size()) : text;
}

// Only the text of this conversation, in the form that was worked out for another one. False if it does not fit.
bool ChatTemplate::render_as_before(common_chat_templates_inputs inputs, ChatPrompt & form) const {
    inputs.force_pure_content = true;  // no look at tools and thoughts: that is the long part
    const auto params         = apply(inputs);
    form.text                 = without_bos(params.prompt);
    return params.generation_prompt == form.generation_prompt;
}

ChatPrompt ChatTemplate::render(const ChatRequest & request) const {
    const auto inputs = inputs_of(request);
    require(!request.continue_final || (!inputs.messages.empty() && inputs.messages.back().role == "assistant"),
            "messages end with no assistant to continue");
    const bool  may_keep = forms_ != nullptr && !request.continue_final && request.grammar.empty();
    std::string key      = may_keep ? form_key(request) : "";
    if (may_keep) {
        if (const auto known = forms_->find(key)) {
            ChatPrompt prompt = *known;
            if (render_as_before(inputs, prompt)) {
                return prompt;
            }
        }
    }
    const auto params = apply(inputs);
    ChatPrompt prompt;
    prompt.text = without_bos(params.prompt);
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
    prompt.thought_start     = params.thinking_start_tag;
    prompt.thought_ends      = params.thinking_end_tags;
    if (request.continue_final) {
        prompt.continued_content   = inputs.messages.back().render_content();
        prompt.continued_reasoning = inputs.messages.back().reasoning_content;
    }
    if (may_keep) {
        ChatPrompt again = prompt;
        if (render_as_before(inputs, again) && again.text == prompt.text) {
            forms_->keep(key, prompt);
        }
    }
    return prompt;
}

std::map<std::string, bool> ChatTemplate::capabilities() const {
    return common_chat_templates_get_caps(templates_.get());
}

bool ChatTemplate::supports_thinking() const { return common_chat_templates_support_enable_thinking(templates_.get()); }

std::string grammar_from_schema(const std::string & schema) {
    const auto tree = parse_schema(schema);
    try {
        return json_schema_to_grammar(tree);
    } catch (const std::exception & error) {
        throw GrammarError(std::string("the JSON Schema cannot be turned into a grammar: ") + error.what());
    }
}

}  // namespace dmr
