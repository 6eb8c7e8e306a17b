#include "python/handles.h"

namespace dmr::python {
namespace {

std::unique_ptr<SamplerHandle> make_sampler(const ModelHandle & model, const SamplerOptions & options) {
    auto                   shared = model.shared();
    const SamplerOptions   mine   = options;
    py::gil_scoped_release released;
    return std::make_unique<SamplerHandle>(std::make_shared<Sampler>(std::move(shared), mine));
}

Sampled sample(SamplerHandle & handle, const py::array_t<float, py::array::c_style | py::array::forcecast> & logits,
               int32_t num_vocabulary) {
    require(logits.ndim() == 1 && logits.shape(0) == num_vocabulary, "logits must be one float for each token");
    const float *          data = logits.data();
    py::gil_scoped_release released;
    return handle.alone([&](Sampler & s) { return s.sample(data); });
}

void register_trigger(py::module_ & module) {
    py::enum_<GrammarTrigger::Kind>(module, "TriggerKind")
        .value("WORD", GrammarTrigger::Kind::word)
        .value("PATTERN", GrammarTrigger::Kind::pattern)
        .value("FULL_PATTERN", GrammarTrigger::Kind::full_pattern);
    py::class_<GrammarTrigger>(module, "GrammarTrigger", "What starts a lazy grammar.")
        .def(py::init(
                 [](GrammarTrigger::Kind kind, std::string value) { return GrammarTrigger{kind, std::move(value)}; }),
             py::arg("kind"), py::arg("value"))
        .def_readonly("kind", &GrammarTrigger::kind)
        .def_readonly("value", &GrammarTrigger::value);
}

void register_options(py::module_ & module) {
    py::class_<SamplerOptions>(module, "SamplerOptions", "How tokens are chosen; see csrc/core/sampler.h.")
        .def(py::init<>())
        .def_readwrite("order", &SamplerOptions::order)
        .def_readwrite("temperature", &SamplerOptions::temperature)
        .def_readwrite("dynatemp_range", &SamplerOptions::dynatemp_range)
        .def_readwrite("dynatemp_exponent", &SamplerOptions::dynatemp_exponent)
        .def_readwrite("top_k", &SamplerOptions::top_k)
        .def_readwrite("top_p", &SamplerOptions::top_p)
        .def_readwrite("min_p", &SamplerOptions::min_p)
        .def_readwrite("typical_p", &SamplerOptions::typical_p)
        .def_readwrite("top_n_sigma", &SamplerOptions::top_n_sigma)
        .def_readwrite("xtc_probability", &SamplerOptions::xtc_probability)
        .def_readwrite("xtc_threshold", &SamplerOptions::xtc_threshold)
        .def_readwrite("repeat_last_n", &SamplerOptions::repeat_last_n)
        .def_readwrite("repeat_penalty", &SamplerOptions::repeat_penalty)
        .def_readwrite("presence_penalty", &SamplerOptions::presence_penalty)
        .def_readwrite("frequency_penalty", &SamplerOptions::frequency_penalty)
        .def_readwrite("dry_multiplier", &SamplerOptions::dry_multiplier)
        .def_readwrite("dry_base", &SamplerOptions::dry_base)
        .def_readwrite("dry_allowed_length", &SamplerOptions::dry_allowed_length)
        .def_readwrite("dry_penalty_last_n", &SamplerOptions::dry_penalty_last_n)
        .def_readwrite("dry_sequence_breakers", &SamplerOptions::dry_sequence_breakers)
        .def_readwrite("mirostat", &SamplerOptions::mirostat)
        .def_readwrite("mirostat_tau", &SamplerOptions::mirostat_tau)
        .def_readwrite("mirostat_eta", &SamplerOptions::mirostat_eta)
        .def_readwrite("adaptive_target", &SamplerOptions::adaptive_target)
        .def_readwrite("adaptive_decay", &SamplerOptions::adaptive_decay)
        .def_readwrite("min_keep", &SamplerOptions::min_keep)
        .def_readwrite("seed", &SamplerOptions::seed)
        .def_readwrite("logit_bias", &SamplerOptions::logit_bias)
        .def_readwrite("ignore_eos", &SamplerOptions::ignore_eos)
        .def_readwrite("grammar", &SamplerOptions::grammar)
        .def_readwrite("grammar_prefill", &SamplerOptions::grammar_prefill)
        .def_readwrite("grammar_lazy", &SamplerOptions::grammar_lazy)
        .def_readwrite("grammar_triggers", &SamplerOptions::grammar_triggers)
        .def_readwrite("num_logprobs", &SamplerOptions::num_logprobs)
        .def_readwrite("thought_budget", &SamplerOptions::thought_budget)
        .def_readwrite("thought_start", &SamplerOptions::thought_start)
        .def_readwrite("thought_end", &SamplerOptions::thought_end)
        .def_readwrite("thought_is_open", &SamplerOptions::thought_is_open);
}

}  // namespace

void register_sampler(py::module_ & module) {
    register_trigger(module);
    register_options(module);
    py::class_<TokenProbability>(module, "TokenProbability")
        .def_readonly("token", &TokenProbability::token)
        .def_readonly("logprob", &TokenProbability::logprob);
    py::class_<Sampled>(module, "Sampled")
        .def_readonly("token", &Sampled::token)
        .def_readonly("logprob", &Sampled::logprob)
        .def_readonly("top", &Sampled::top);
    py::class_<SamplerHandle>(module, "Sampler", "Chooses the next token of one sequence.")
        .def(py::init(&make_sampler), py::arg("model"), py::arg("options"), "Raises ValueError, GrammarError.")
        .def(
            "observe",
            [](SamplerHandle & h, const std::vector<Token> & tokens) {
                h.alone([&](Sampler & s) { s.observe(tokens); });
            },
            py::arg("tokens"), ReleaseGil(), "Show tokens that came before, for the penalties.")
        .def(
            "sample",
            [](SamplerHandle & h, const py::array_t<float, py::array::c_style | py::array::forcecast> & logits) {
                return sample(h, logits, h.shared()->num_vocabulary());
            },
            py::arg("logits"), "Choose and accept a token. Raises GrammarError, Error (not a number).");
}

}  // namespace dmr::python
