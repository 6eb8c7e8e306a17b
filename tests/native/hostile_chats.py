"""Hostile conversations and templates; closed objects; wrong types."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from native.hostile_bench import REFUSED, Bench, Case

from dmr import _core


def chats(bench: Bench) -> Iterator[Case]:
    deep = "[" * 100_000
    for name, value in {"no list": "5", "no JSON": "{", "no role": "[{}]", "deep": deep, "nothing": ""}.items():
        yield Case(f"messages: {name}", lambda v=value: bench.render(messages=v), (ValueError,))
    yield Case("messages: content 5", lambda: bench.render(messages='[{"role":"user","content":5}]'), (ValueError,))
    yield Case("messages: none", lambda: bench.render(messages="[]"), may_pass=True)
    for name, value in {"no list": "5", "no function": "[{}]", "deep": deep}.items():
        yield Case(f"tools: {name}", lambda v=value: bench.render(tools=v), (ValueError,))
    many: dict[str, Any] = {str(i): {} for i in range(3000)}
    for name, function in {
        "no name": {},
        "parameters 5": {"name": "a", "parameters": 5},
        "reference into nothing": {"name": "a", "parameters": {"properties": {"x": {"$ref": "#/q"}}}},
        "long name": {"name": "x" * 100_000, "parameters": {"type": "object"}},
        "name of signs": {"name": '" \n{5,2}<tool_call>\0', "parameters": {"type": "object"}},
        "3000 parameters": {"name": "a", "parameters": {"type": "object", "properties": many}},
    }.items():
        for choice in ("auto", "required"):
            tools = json.dumps([{"type": "function", "function": function}])
            call = Case(f"tool: {name}, {choice}", lambda t=tools, c=choice: bench.render(tools=t, tool_choice=c))
            yield call._replace(may_pass=True)
    yield Case("keywords: deep", lambda: bench.render(template_kwargs={"a": deep}), (ValueError,))
    yield Case("keywords: no JSON", lambda: bench.render(template_kwargs={"a": "{"}), (ValueError,))
    yield Case("keywords: messages", lambda: bench.render(template_kwargs={"messages": "5"}), REFUSED)
    yield Case("choice", lambda: bench.render(tool_choice="maybe"), (ValueError,))


def templates(bench: Bench) -> Iterator[Case]:
    refused = (_core.TemplateError,)
    for name, source in {
        "syntax": "{{ ",
        "refusal": "{{ raise_exception('no') }}",
        "100k parentheses": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
        "100k additions": "{{ 1" + "+1" * 100_000 + " }}",
        "100k negations": "{{ " + "not " * 100_000 + "1 }}",
        "100k filters": "{{ a" + "|upper" * 100_000 + " }}",
        "50k blocks": "{% if a %}" * 50_000 + "{% endif %}" * 50_000,
        "50k branches": "{% if a %}" + "{% elif a %}" * 50_000 + "{% endif %}",
        "call of nothing": "{{ nobody() }}",
        "endless indent": '{{ "a\nb" | indent(100000000000) }}',
    }.items():
        yield Case(f"template: {name}", lambda s=source: use_template(s), refused)
    for name, source in {
        "division by zero": "{{ 1 / 0 }}{{ 1 % 0 }}",
        "far index": "{{ messages[99].x.y }}{{ messages[-99] }}",
        "large numbers": "{{ 9223372036854775807 + 1 }}{{ (-9223372036854775807 - 1) % -1 }}",
        "unlike things sorted": '{{ [1, "a", none] | sort }}',
        "long name": "{{ " + "a" * 500_000 + " }}",
        "long text": "{{ '" + "(" * 500_000 + "' }}",
    }.items():
        yield Case(f"template: {name}", lambda s=source: use_template(s), may_pass=True)


def use_template(source: str) -> str:
    request = _core.ChatRequest()
    request.messages = '[{"role":"user","content":"x"}]'
    return _core.ChatTemplate(source).render(request).text


def closed(bench: Bench) -> Iterator[Case]:
    gone = (_core.Error,)

    def closed_model() -> _core.Model:
        model = bench.load("tiny-random", vocab_only=True)
        model.close()
        return model

    def closed_context() -> _core.Context:
        context = bench.filled()
        context.close()
        return context

    model_uses: dict[str, Callable[[_core.Model], object]] = {
        "tokenize": lambda m: m.tokenize("x"),
        "piece": lambda m: m.piece(1),
        "metadata": lambda m: m.metadata,
        "context": lambda m: bench.make_context(m),
        "sampler": lambda m: bench.make_sampler(m),
        "detokenizer": _core.Detokenizer,
    }
    context_uses: dict[str, Callable[[_core.Context], object]] = {
        "decode": lambda c: c.decode(bench.make_batch((0, [1], 3))),
        "step": lambda c: _core.step(c, bench.make_batch((0, [1], 3)), [], _core.ThreadPool(1)),
        "draft": lambda c: _core.draft(c, [(0, [1], 3, 2)], 0.0),
        "logits": lambda c: c.logits(2),
        "remove": lambda c: c.remove(0),
        "save": lambda c: c.save(0),
        "abort": lambda c: c.abort(),
        "counters": lambda c: c.counters,
        "size": lambda c: c.context_size,
    }
    for name, use in model_uses.items():
        yield Case(f"closed model: {name}", lambda u=use: u(closed_model()), gone)
    for name, use_context in context_uses.items():
        yield Case(f"closed context: {name}", lambda u=use_context: u(closed_context()), gone)
    yield Case("context of a closed model", lambda: orphan(bench), may_pass=True)


def orphan(bench: Bench) -> object:
    model = bench.load("tiny-random")
    context, sampler = bench.make_context(model), bench.make_sampler(model)
    model.close()
    del model
    context.decode(bench.make_batch((0, [1, 2], 0)))
    return sampler.sample(context.logits(1))


def wrong_types(bench: Bench) -> Iterator[Case]:
    context: Any = bench.filled()
    model: Any = bench.random
    core: Any = _core
    for name, call in {
        "model of nothing": lambda: core.Model(None),
        "model of numbers": lambda: core.Model([1]),
        "context of nothing": lambda: core.Context(None, core.ContextOptions()),
        "context of a context": lambda: core.Context(context, core.ContextOptions()),
        "sampler of text": lambda: core.Sampler("x", core.SamplerOptions()),
        "decode nothing": lambda: context.decode(None),
        "decode tokens": lambda: context.decode([1, 2]),
        "batch of text": lambda: core.Batch().add(0, "abc", 0),
        "batch of fractions": lambda: core.Batch().add(0, [1.5], 0),
        "batch of long numbers": lambda: core.Batch().add(0, [2**40], 0),
        "sequence of text": lambda: context.remove("0"),
        "long sequence": lambda: context.remove(2**40),
        "fraction of a token": lambda: model.piece(1.5),
        "tokenize nothing": lambda: model.tokenize(None),
        "tokenize a number": lambda: model.tokenize(5),
        "step of nothing": lambda: core.step(None, None, None, None),
        "step with rows of nothing": lambda: core.step(context, core.Batch(), [None], core.ThreadPool(1)),
        "stop of numbers": lambda: core.Detokenizer(model, stop=[1]),
        "stop by place": lambda: core.Detokenizer(model, ["x"]),
        "bytes of text": lambda: core.valid_utf8("x"),
        "status of text": lambda: core.DecodeStatus("DONE"),
        "result made by hand": lambda: core.StepResult(),
        "prompt made by hand": lambda: core.ChatPrompt(),
        "unknown option": lambda: bench.with_fields(core.ContextOptions(), {"nothing": 1}),
    }.items():
        yield Case(f"types: {name}", call, (TypeError, AttributeError))
    yield Case("types: half a character", lambda: model.tokenize("\ud800"), (TypeError, UnicodeError))
    yield Case("types: object without __init__", lambda: core.Context.__new__(core.Context).decode(None), (TypeError,))


GROUPS = (chats, templates, closed, wrong_types)
