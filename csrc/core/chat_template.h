// Chat templates and grammars from JSON Schemas: llama-common, behind plain strings. JSON goes in and out as text.
// What a model answers is read by chat_parser.h.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/sampler.h"

struct common_chat_params;
struct common_chat_templates;
struct common_chat_templates_inputs;

namespace dmr {

class AnswerForms;

struct ChatRequest {
    std::string                        messages;  // JSON array in OpenAI's chat form
    std::string                        tools;     // JSON array in OpenAI's chat form; empty = none
    std::string                        tool_choice           = "auto";  // "auto", "none", "required"
    bool                               parallel_tool_calls   = true;
    bool                               enable_thinking       = true;
    bool                               add_generation_prompt = true;
    bool                               continue_final        = false;  // the last message, an assistant's, goes on
    std::string                        json_schema;                    // the answer must match; empty = free
    std::string                        grammar;                        // the same as GBNF
    std::map<std::string, std::string> template_kwargs;                // values are JSON
};

// What to send to the model, and all that is needed to understand its answer.
struct ChatPrompt {
    std::string                 text;
    std::string                 grammar;          // empty = free
    std::string                 grammar_prefill;  // text the grammar must have taken before the first token
    bool                        grammar_lazy = false;
    std::vector<GrammarTrigger> grammar_triggers;
    std::vector<std::string>    preserved_tokens;
    std::vector<std::string>    stop;
    int                         format = 0;
    std::string                 generation_prompt;  // what the template already began of the answer
    std::string                 parser;             // llama-common's, serialised; opaque
    bool                        supports_thinking = false;
    std::string                 thought_start;        // the tag that begins a thought; empty = none is known
    std::vector<std::string>    thought_ends;         // the texts that end it
    std::string                 continued_content;    // what `generation_prompt` holds of a message that goes on
    std::string                 continued_reasoning;  // the same
};

// Immutable; may be used by several threads.
class ChatTemplate {
  public:
    // Empty source = ChatML. Throws TemplateError.
    ChatTemplate(const std::string & source, const std::string & bos, const std::string & eos, bool adds_bos);
    ~ChatTemplate();

    // Throws std::invalid_argument for JSON of the wrong form, TemplateError when the template refuses the messages.
    ChatPrompt                  render(const ChatRequest & request) const;
    std::map<std::string, bool> capabilities() const;
    bool                        supports_thinking() const;

  private:
    common_chat_params apply(const common_chat_templates_inputs & inputs) const;
    bool               render_as_before(common_chat_templates_inputs inputs, ChatPrompt & form) const;
    std::string        without_bos(const std::string & text) const;

    std::unique_ptr<common_chat_templates, void (*)(common_chat_templates *)> templates_;
    std::string                                                               bos_;
    bool                                                                      adds_bos_;
    std::unique_ptr<AnswerForms>                                              forms_;  // null = each one is worked out
};

// JSON Schema (text) to GBNF. Throws GrammarError; std::invalid_argument for text that is not JSON.
std::string grammar_from_schema(const std::string & schema);

}  // namespace dmr
