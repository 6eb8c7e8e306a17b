"""Flags: which there are, what is made of them, and what is said of those that cannot be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from unit.runtime_flags.allowed import ALLOWED

from dmr.config import AttentionSettings, DraftSettings, EngineSettings, ProjectorSettings, RopeSettings, WeightSettings
from dmr.errors import InvalidRequest, Unsupported
from dmr.runtime_flags import (
    FLAGS,
    GROUPS,
    Refused,
    Sets,
    Told,
    engine_settings,
    flags_without,
    merged_flags,
    read_flags,
    split_flags,
    with_runtime_flags,
)
from dmr.types import (
    ChatInput,
    GenerateRequest,
    Message,
    ResponseFormat,
    Role,
    SamplingParams,
    TextInput,
    TextPart,
    Tool,
)

PARTS = {
    "engine": EngineSettings,
    "weights": WeightSettings,
    "attention": AttentionSettings,
    "rope": RopeSettings,
    "draft": DraftSettings,
    "projector": ProjectorSettings,
    "sampling": SamplingParams,
}
SEVERAL = {"batch_limit"}  # not a field of its own: see engine_settings
SAMPLES = {
    "sampling.order": "top_k;temperature",
    "request.format": 'root ::= "a"',
    "request.template": "chatml",
    "request.template_kwargs": "{}",
    "engine.speculation": "none",
    "weights.devices": "none",
    "weights.tensor_split": "1,2",
}


def values(*tokens: str) -> dict[str, Any]:
    return dict(read_flags(tokens).values)


def request(**fields: Any) -> GenerateRequest:
    turns = ChatInput((Message(Role.USER, (TextPart("Hi"),)),))
    return GenerateRequest(**{"model": "m", "input": turns, **fields})


def test_upstreams_flags_are_all_known_and_no_others() -> None:
    assert set(FLAGS) == ALLOWED
    assert sum(len(flag.names) for group in GROUPS for flag in group.flags) == len(FLAGS)  # each name once


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_each_flag_is_honoured_or_refused_by_name(name: str) -> None:
    effect = FLAGS[name].effect
    if isinstance(effect, Refused):
        tokens = [name, "1"] if effect.takes_value else [name]
        with pytest.raises(Unsupported, match=f'runtime flag "{name}" is not supported: {effect.reason[:20]}'):
            read_flags(tuple(tokens))
    elif isinstance(effect, Told):
        assert values(name, *effect.only[:1]) == {}
    else:
        assert set(values(*_sample(name, effect))) <= {effect.target}
        part, _, field = effect.target.partition(".")
        assert part not in PARTS or field in {*PARTS[part].__struct_fields__, *SEVERAL}, effect.target


def _sample(name: str, effect: Sets) -> list[str]:
    if not effect.kind.takes_value:
        return [name]
    words = getattr(effect.kind, "words", ())
    sample = SAMPLES.get(effect.target) or (next(iter(words)) if words else "1")
    return [name, '{"type":"object"}' if name in ("-j", "--json-schema") else sample]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (("--temp", "0.7"), {"sampling.temperature": 0.7}),
        (("--temp=0.7",), {"sampling.temperature": 0.7}),
        (("--temp", "-1"), {"sampling.temperature": 0.0}),
        (("--top-nsigma", "-.5"), {"sampling.top_n_sigma": -0.5}),
        (("--reasoning-budget", "-1"), {"model.reasoning_budget": -1}),
        (("--reasoning-budget=-1",), {"model.reasoning_budget": -1}),
        (("--seed", "-1"), {}),
        (("--seed", "4294967295"), {}),
        (("--samplers", "top-k;temp"), {"sampling.order": ("top_k", "temperature")}),
        (("-ngl", "all"), {"engine.num_gpu_layers": -1}),
        (("-ngl", "12"), {"engine.num_gpu_layers": 12}),
        (("-fa",), {"attention.flash_attention": "on"}),
        (("-fa", "off"), {"attention.flash_attention": "off"}),
        (("-fa", "--jinja"), {"attention.flash_attention": "on"}),
        (("--cache-ram", "100"), {"engine.host_cache_bytes": 100 << 20}),
        (("--cache-ram", "-1"), {"engine.host_cache_bytes": -1}),
        (("--rope-scale", "4"), {"rope.freq_scale": 0.25}),
        (("-ts", "3,1"), {"weights.tensor_split": (3.0, 1.0)}),
        (("-dev", "CUDA0,CUDA1"), {"weights.devices": ("CUDA0", "CUDA1")}),
        (("--no-mmap", "--mmap"), {"weights.use_mmap": True}),
        (("--threads", "4", "--threads", "0"), {}),
        (("--chat-template-kwargs", '{"a": [1]}'), {"request.template_kwargs": {"a": [1]}}),
        (("--grammar", 'root ::= "a"'), {"request.format": ("grammar", 'root ::= "a"')}),
        (("-j", "{}", "--grammar", 'root ::= "a"'), {"request.format": ("grammar", 'root ::= "a"')}),
        (("--fit", "on", "--reasoning-format", "deepseek", "--jinja", "--cont-batching"), {}),
        (("--n-cpu-moe", "3"), {"weights.num_cpu_expert_layers": 3}),
        (("-v",), {"process.log_level": "debug"}),
    ],
    ids=str,
)
def test_values_are_read(tokens: tuple[str, ...], expected: dict[str, Any]) -> None:
    assert values(*tokens) == expected


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (("--log-file", "x"), 'runtime flag "--log-file" is not allowed for backend "llama.cpp"'),
        (("--log-file=/etc/passwd",), 'runtime flag "--log-file" is not allowed for backend "llama.cpp"'),
        (("-1",), 'runtime flag "-1" is not allowed for backend "llama.cpp"'),
        (("--jinja", "-1"), 'runtime flag "-1" is not allowed for backend "llama.cpp"'),
        (("-",), 'runtime flag "-" is not allowed for backend "llama.cpp"'),
        (("",), 'invalid runtime flag "": no flag stands before it'),
        (("--temp", "/etc/x"), "invalid runtime flag \"/etc/x\": paths are not allowed (contains '/' or '\\\\')"),
        (("--temp=a\\b",), "invalid runtime flag \"--temp=a\\\\b\": paths are not allowed (contains '/' or '\\\\')"),
        (("--temp=-x",), "invalid flag \"--temp=-x\": value cannot start with '-' unless followed by a digit"),
        (("0.7",), 'invalid runtime flag "0.7": no flag stands before it'),
        (("--jinja", "yes"), 'invalid runtime flag "yes": no flag stands before it'),
        (("--jinja=yes",), 'runtime flag "--jinja" takes no value'),
        (("--temp",), 'runtime flag "--temp" needs a value: a number'),
        (("--temp", "--jinja"), 'runtime flag "--temp" needs a value: a number'),
        (("--temp", "hot"), 'runtime flag "--temp": "hot" is not a number'),
        (("--presence-penalty", "1e300"), 'runtime flag "--presence-penalty": "1e300" is not a number'),
        (("--rope-scale", "1e-320"), 'runtime flag "--rope-scale": "1e-320" is not a number from 1e-06 to 1e+06'),
        (("--temp", "inf"), 'runtime flag "--temp": "inf" is not a number'),
        (("--temp", "nan"), 'runtime flag "--temp": "nan" is not a number'),
        (("--top-k", "1.5"), 'runtime flag "--top-k": "1.5" is not a whole number from 0'),
        (("--top-p", "1.1"), 'runtime flag "--top-p": "1.1" is not a number from 0 to 1'),
        (("--repeat-penalty", "0"), 'runtime flag "--repeat-penalty": "0" is not a number from 1e-06'),
        (("--threads", "9" * 30), f'runtime flag "--threads": "{"9" * 30}" is not a whole number from -1 to 512'),
        (("--parallel", "1_0"), 'runtime flag "--parallel": "1_0" is not a whole number from -1 to 256'),
        (("--pooling", "none"), 'runtime flag "--pooling": "none" is not one of mean, cls, last, rank'),
        (
            ("--chat-template", "llama9"),
            'runtime flag "--chat-template": "llama9" is not a Jinja template, or one of chat',
        ),
        (("--chat-template-kwargs", "[]"), 'runtime flag "--chat-template-kwargs": "[]" is not a JSON object'),
        (
            ("--chat-template-kwargs", '{"a": 1e999}'),
            'runtime flag "--chat-template-kwargs": "{\\"a\\": 1e999}" is not a JSON',
        ),
        (("--grammar", "nothing"), 'runtime flag "--grammar": "nothing" is not a GBNF grammar with a rule named root'),
        (("--samplers", "top_k;top_k"), 'runtime flag "--samplers": "top_k;top_k" is not some of penalties'),
        (("--samplers", "infill;top_k"), "--samplers: infill needs top_k before it, and --top-k of 256 at most"),
        (("-ctv", "q8_0", "-fa", "off"), "quantized types of KV cells need flash attention"),
        (("--mlock", "--direct-io"), "--direct-io and --mlock exclude each other"),
        (("--image-min-tokens", "9", "--image-max-tokens", "8"), "--image-min-tokens is more than"),
        (("--fit", "off"), 'runtime flag "--fit" is supported with on only'),
        (("--reasoning-format", "none"), 'runtime flag "--reasoning-format" is supported with auto or deepseek only'),
        (("--jinja",) * 300, "invalid runtime flags: there are too many, or one is too long"),
        (("--json-schema", "[" * 9000), 'runtime flag "--json-schema": "[['),
    ],
    ids=lambda case: str(case)[:60],
)
def test_what_cannot_be_is_told(tokens: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_flags(tokens)
    assert caught.value.message.startswith(message)
    assert caught.value.param == "runtime-flags"


def test_a_line_is_split_as_a_shell_does() -> None:
    assert split_flags("--temp 0.7 --grammar 'root ::= \"a\"'") == ("--temp", "0.7", "--grammar", 'root ::= "a"')
    with pytest.raises(InvalidRequest, match="invalid runtime flags: No closing quotation"):
        split_flags("--grammar 'root")


def test_merging_replaces_what_says_the_same_and_keeps_the_rest() -> None:
    old = ("--temp", "0.7", "--mmap", "--top-k=5", "--jinja")
    assert merged_flags(old, ("--temperature", "1", "--no-mmap")) == (
        *("--top-k=5", "--jinja"),
        *("--temperature", "1", "--no-mmap"),
    )
    assert merged_flags((), ("--temp", "1", "--top-k", "2", "--temp", "3")) == ("--top-k", "2", "--temp", "3")
    assert flags_without(("-c", "5", "--temp", "1", "--embeddings"), ("model", "mode")) == ("--temp", "1")


def test_settings_of_an_engine() -> None:
    tokens = "-t 2 -b 256 -ctk q8_0 --rope-freq-base 10000 --mlock --spec-type draft-simple,ngram-simple -td 3"
    made = engine_settings(EngineSettings(max_batch_tokens=300), read_flags(tuple(tokens.split())))
    assert (made.num_threads, made.max_batch_tokens, made.speculation) == (2, 256, "auto")
    assert made.attention == AttentionSettings(key_type="q8_0")
    assert made.rope.freq_base == 10000
    assert made.weights == WeightSettings(use_mlock=True)
    assert made.draft.num_threads == 3


@pytest.mark.parametrize(("flags", "tokens"), [("-b 4096", 512), ("-ub 1024", 1024), ("-b 100 -ub 1024", 100)])
def test_a_step_has_the_smaller_of_both_batches(flags: str, tokens: int) -> None:
    assert engine_settings(EngineSettings(), read_flags(tuple(flags.split()))).max_batch_tokens == tokens


def test_sampling_flags_are_defaults_only() -> None:
    flags = read_flags(("--temp", "0.1", "--top-k", "3"))
    mine = request(sampling=SamplingParams(temperature=0.9), given=frozenset({"temperature"}))
    made = with_runtime_flags(mine, flags)
    assert (made.sampling.temperature, made.sampling.top_k) == (0.9, 3)
    assert made.given == {"temperature", "top_k"}  # so that the model's own defaults do not go over them


def test_no_flags_change_nothing() -> None:
    assert with_runtime_flags(request(), read_flags(())) == request()


@pytest.mark.parametrize(
    ("flags", "fields", "expected"),
    [
        ("-n 7", {}, {"max_tokens": 7}),
        ("-n -1", {"max_tokens": 5}, {"max_tokens": None}),
        ("-n 7", {"max_tokens": 5, "given": {"max_tokens"}}, {"max_tokens": 5}),
        ("--context-shift --keep 4", {}, {"shift": 4}),
        ("--context-shift", {"shift": 9}, {"shift": 9}),
        ("--context-shift --keep -1", {}, {"shift": 2**31 - 1}),
        ("--keep 4", {}, {"shift": None}),
        ("--keep 4", {"shift": 9}, {"shift": 4}),
        ("--no-context-shift", {"shift": 9}, {"shift": None}),
        ("--no-context-shift", {"shift": 9, "given": {"shift"}}, {"shift": 9}),
        ("-j {}", {}, {"response_format": ResponseFormat(json_schema="{}")}),
        ("-j {}", {"response_format": ResponseFormat(grammar="x")}, {"response_format": ResponseFormat(grammar="x")}),
        ("-j {}", {"input": TextInput(("Hi",))}, {"response_format": ResponseFormat(json_schema="{}")}),
    ],
    ids=str,
)
def test_defaults_of_requests(flags: str, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    if "given" in fields:
        fields = {**fields, "given": frozenset(fields["given"])}
    made = with_runtime_flags(request(**fields), read_flags(tuple(flags.split())))
    assert {name: getattr(made, name) for name in expected} == expected


def test_a_form_is_not_forced_upon_tools() -> None:
    turns = msgspec.structs.replace(request().input, tools=(Tool("f"),))
    assert with_runtime_flags(request(input=turns), read_flags(("-j", "{}"))).response_format is None


def test_templates_and_their_arguments() -> None:
    flags = read_flags(
        ("--chat-template", "chatml", "--chat-template-kwargs", '{"a": 1, "b": 2}', "--no-prefill-assistant")
    )
    made = with_runtime_flags(request(), flags).input
    assert isinstance(made, ChatInput)
    assert "<|im_start|>" in made.template
    assert (made.template_kwargs, made.continue_final) == ({"a": 1, "b": 2}, False)
    own = ChatInput(request().input.messages, template="{{ x }}", template_kwargs={"a": 5})  # type: ignore[union-attr]
    kept = with_runtime_flags(request(input=own), flags).input
    assert isinstance(kept, ChatInput)
    assert (kept.template, kept.template_kwargs) == ("{{ x }}", {"a": 5, "b": 2})
