#include "core/chat_parser.h"
#include "python/handles.h"

namespace dmr::python {
namespace {

using ChatParserHandle = Handle<ChatParser>;

ChatPrompt render(const ChatTemplate & chat_template, const ChatRequest & request) {
    const ChatRequest      mine = request;  // nobody else can change it meanwhile
    py::gil_scoped_release released;
    return chat_template.render(mine);
}

ChatDelta feed(ChatParserHandle & handle, const std::string & text) {
    return handle.alone([&](ChatParser & parser) { return parser.feed(text); });
}

ChatDelta finish(ChatParserHandle & handle) {
    return handle.alone([](ChatParser & parser) { return parser.finish(); });
}

void register_request(py::module_ & module) {
    py::class_<ChatRequest>(module, "ChatRequest",
                            "What a template renders; JSON as text, see csrc/core/chat_template.h.")
        .def(py::init<>())
        .def_readwrite("messages", &ChatRequest::messages)
        .def_readwrite("tools", &ChatRequest::tools)
        .def_readwrite("tool_choice", &ChatRequest::tool_choice)
        .def_readwrite("parallel_tool_calls", &ChatRequest::parallel_tool_calls)
        .def_readwrite("enable_thinking", &ChatRequest::enable_thinking)
        .def_readwrite("add_generation_prompt", &ChatRequest::add_generation_prompt)
        .def_readwrite("continue_final", &ChatRequest::continue_final)
        .def_readwrite("json_schema", &ChatRequest::json_schema)
        .def_readwrite("grammar", &ChatRequest::grammar)
        .def_readwrite("template_kwargs", &ChatRequest::template_kwargs);
}

// All of a prompt as plain values, for other processes. Texts are bytes: a template may cut a character in two.
using PromptState = std::tuple<py::bytes, py::bytes, py::bytes, bool, std::vector<std::pair<int, py::bytes>>,
                               std::vector<py::bytes>, std::vector<py::bytes>, int, py::bytes, py::bytes, bool,
                               py::bytes, std::vector<py::bytes>, py::bytes, py::bytes>;

std::vector<py::bytes> bytes_of(const std::vector<std::string> & texts) { return {texts.begin(), texts.end()}; }

std::vector<std::string> texts_of(const std::vector<py::bytes> & texts) { return {texts.begin(), texts.end()}; }

PromptState state_of(const ChatPrompt & prompt) {
    std::vector<std::pair<int, py::bytes>> triggers;
    for (const auto & trigger : prompt.grammar_triggers) {
        triggers.emplace_back(static_cast<int>(trigger.kind), trigger.value);
    }
    return {prompt.text,
            prompt.grammar,
            prompt.grammar_prefill,
            prompt.grammar_lazy,
            triggers,
            bytes_of(prompt.preserved_tokens),
            bytes_of(prompt.stop),
            prompt.format,
            prompt.generation_prompt,
            prompt.parser,
            prompt.supports_thinking,
            prompt.thought_start,
            bytes_of(prompt.thought_ends),
            prompt.continued_content,
            prompt.continued_reasoning};
}

ChatPrompt prompt_of(const PromptState & state) {
    ChatPrompt prompt;
    prompt.text            = std::get<0>(state);
    prompt.grammar         = std::get<1>(state);
    prompt.grammar_prefill = std::get<2>(state);
    prompt.grammar_lazy    = std::get<3>(state);
    for (const auto & [kind, value] : std::get<4>(state)) {
        if (kind < 0 || kind > static_cast<int>(GrammarTrigger::Kind::full_pattern)) {
            throw std::invalid_argument("a prompt's state has an unknown kind of trigger");
        }
        prompt.grammar_triggers.push_back({static_cast<GrammarTrigger::Kind>(kind), value});
    }
    prompt.preserved_tokens    = texts_of(std::get<5>(state));
    prompt.stop                = texts_of(std::get<6>(state));
    prompt.format              = std::get<7>(state);
    prompt.generation_prompt   = std::get<8>(state);
    prompt.parser              = std::get<9>(state);
    prompt.supports_thinking   = std::get<10>(state);
    prompt.thought_start       = std::get<11>(state);
    prompt.thought_ends        = texts_of(std::get<12>(state));
    prompt.continued_content   = std::get<13>(state);
    prompt.continued_reasoning = std::get<14>(state);
    return prompt;
}

void register_prompt(py::module_ & module) {
    py::class_<ChatPrompt>(module, "ChatPrompt", "A rendered conversation and all that is needed to read the answer.")
        .def_property_readonly("text", [](const ChatPrompt & p) { return decoded(p.text); })
        .def_readonly("grammar", &ChatPrompt::grammar)
        .def_readonly("grammar_prefill", &ChatPrompt::grammar_prefill)
        .def_readonly("grammar_lazy", &ChatPrompt::grammar_lazy)
        .def_readonly("grammar_triggers", &ChatPrompt::grammar_triggers)
        .def_readonly("preserved_tokens", &ChatPrompt::preserved_tokens)
        .def_readonly("stop", &ChatPrompt::stop)
        .def_readonly("supports_thinking", &ChatPrompt::supports_thinking)
        .def_readonly("thought_start", &ChatPrompt::thought_start)
        .def_readonly("thought_ends", &ChatPrompt::thought_ends)
        .def_readonly("parser", &ChatPrompt::parser)
        .def_property_readonly("generation_prompt", [](const ChatPrompt & p) { return decoded(p.generation_prompt); })
        .def_property_readonly("state", state_of)
        .def_static("from_state", prompt_of, py::arg("state"), "Raises ValueError.");
}

void register_delta(py::module_ & module) {
    py::class_<ToolCallDelta>(module, "ToolCallDelta")
        .def_readonly("index", &ToolCallDelta::index)
        .def_property_readonly("name", [](const ToolCallDelta & d) { return decoded(d.name); })
        .def_property_readonly("arguments", [](const ToolCallDelta & d) { return decoded(d.arguments); });
    py::class_<ChatDelta>(module, "ChatDelta")
        .def_property_readonly("content", [](const ChatDelta & d) { return decoded(d.content); })
        .def_property_readonly("reasoning", [](const ChatDelta & d) { return decoded(d.reasoning); })
        .def_readonly("tool_calls", &ChatDelta::tool_calls);
}

}  // namespace

void register_chat(py::module_ & module) {
    register_request(module);
    register_prompt(module);
    register_delta(module);
    py::class_<ChatTemplate>(module, "ChatTemplate", "A model's chat template. Immutable; any thread.")
        .def(py::init<const std::string &, const std::string &, const std::string &, bool>(), py::arg("source"),
             py::arg("bos") = "", py::arg("eos") = "", py::arg("adds_bos") = false, ReleaseGil(),
             "Empty source = ChatML. Raises TemplateError.")
        .def("render", render, py::arg("request"),
             "Raises ValueError for JSON of the wrong form, TemplateError when the template refuses.")
        .def_property_readonly("capabilities", &ChatTemplate::capabilities)
        .def_property_readonly("supports_thinking", &ChatTemplate::supports_thinking);
    py::class_<ChatParserHandle>(module, "ChatParser", "Follows one answer while it grows.")
        .def(py::init([](const ChatPrompt & prompt, bool parse_tool_calls) {
                 return std::make_unique<ChatParserHandle>(std::make_shared<ChatParser>(prompt, parse_tool_calls));
             }),
             py::arg("prompt"), py::arg("parse_tool_calls") = true)
        .def("feed", feed, py::arg("text"), ReleaseGil())
        .def("finish", finish, ReleaseGil());
    module.def("grammar_from_schema", grammar_from_schema, py::arg("schema"), ReleaseGil(),
               "JSON Schema (text) to GBNF. Raises GrammarError, ValueError.");
}

}  // namespace dmr::python
