"""What /openapi.json promises is kept: schemathesis makes requests of it, good and bad, against the app in process.

Every operation gets some; what is the same resource at another address, or reads the same body, gets few.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import schemathesis
from fakes import FakeService, FakeStream, model_record
from hypothesis import HealthCheck, Phase, settings
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from dmr.config import Settings
from dmr.types import (
    Completed,
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    ReasoningDelta,
    RerankRequest,
    RunningModel,
    Scores,
    Started,
    TextDelta,
    Tick,
    TokenCount,
    TokenizeRequest,
    Tokens,
    ToolCallDelta,
    ToolCallStart,
    TransferProgress,
    Usage,
)
from dmr_server.app import create_app
from dmr_server.dialect import EVENT_STREAM

MODEL = "ai/smollm2"
EXAMPLES, FEW_EXAMPLES = 8, 2


class WillingService(FakeService):
    """Answers everything that it is asked, in the shape that was asked for. Its one model cannot be lost."""

    def generate(self, request: GenerateRequest, *, in_pieces: bool = True) -> Iterator[Event]:
        self.get_model(request.model)
        return FakeStream(list(self._events(request)))

    def _events(self, request: GenerateRequest) -> Iterator[Event]:
        yield Started(5)
        for index in range(request.num_choices):
            yield ReasoningDelta(index, "Hm.")
            yield TextDelta(index, "Hello")
            tools = getattr(request.input, "tools", ())
            if tools:
                yield ToolCallStart(index, 0, "call_1", tools[0].name)
                yield ToolCallDelta(index, 0, '{"input": "a"}')
            yield Finished(index, FinishReason.TOOL_CALLS if tools else FinishReason.STOP)
        yield Tick()
        yield Completed(Usage(5, 3, 2 * request.num_choices, 1))

    def embed(self, request: EmbedRequest) -> Iterator[Tick | Embeddings]:
        self.get_model(request.model)
        yield Embeddings((b"\x00\x00\x80\x3f",) * len(request.inputs), (1,) * len(request.inputs))

    def rerank(self, request: RerankRequest) -> Iterator[Tick | Scores]:
        self.get_model(request.model)
        yield Scores((0.5,) * len(request.pairs), 7)

    def tokenize(self, request: TokenizeRequest) -> Iterator[Tick | Tokens]:
        self.get_model(request.model)
        yield Tokens((1, 2), (b"te", b"\xff"))

    def detokenize(self, request: DetokenizeRequest) -> Iterator[Tick | str]:
        self.get_model(request.model)
        yield "text"

    def count_tokens(self, request: GenerateRequest) -> Iterator[Tick | TokenCount]:
        self.get_model(request.model)
        yield TokenCount(12, 2048)

    def render(self, request: GenerateRequest) -> Iterator[Tick | str]:
        self.get_model(request.model)
        yield "<prompt>"

    def pull(self, reference: str, token: str | None = None, insecure: bool = False) -> Iterator[Any]:
        return FakeStream([TransferProgress("Pulling"), Tick(), TransferProgress("", 9, "sha256:1", 9, 4)])

    def push(self, source: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
        self.get_model(source)
        return FakeStream([TransferProgress("Pushing")])

    def create_model(self, new: Any) -> Iterator[Any]:
        return FakeStream([TransferProgress("reading model metadata")])

    def has_file(self, digest: str) -> bool:
        return len(digest) % 2 == 0

    def add_file(self, source: Any, size: int | None, digest: str) -> None:
        source.read()

    def remove_model(self, reference: str, force: bool) -> Any:
        removal = super().remove_model(reference, force)
        self.models = [model_record(f"docker.io/{MODEL}:latest")]
        return removal


def service() -> WillingService:
    willing = WillingService([model_record(f"docker.io/{MODEL}:latest")])
    willing.running = [RunningModel("sha256:" + "ab" * 32, MODEL, "ready", 0, 1.0, 2.0, 300.0, 1, 2048, 5)]
    return willing


schemathesis.serializer.alias("application/x-tar", "application/octet-stream")


def app() -> Any:
    folder = Path(tempfile.mkdtemp(prefix="dmr-schemathesis-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    logs = folder / "logs"  # without a file in it: a log that is followed has no end
    logs.mkdir()
    return create_app(cast(Any, service()), Settings(max_body_bytes=100_000, models_path=folder, log_dir=logs))


def streamed_items_conform(ctx: Any, response: Any, case: schemathesis.Case) -> bool | None:
    """Each event and each line of a stream is what the document says of one."""
    media_type = response.headers["content-type"][0].partition(";")[0]
    if response.status_code != 200 or media_type not in STREAMS or case.method == "HEAD":
        return None
    content = case.operation.definition.raw["responses"]["200"]["content"]
    if media_type not in content:
        return None
    told = content[media_type]["schema"]
    if media_type == EVENT_STREAM:
        data = told["properties"]["data"]
        told = {"x-item-schema": data.get("contentSchema") or data["anyOf"][-1]["contentSchema"]}
    elif "x-item-schema" not in told:
        return None
    validator = Draft202012Validator({**told["x-item-schema"], "components": schema.raw_schema["components"]})
    items = list(STREAMS[media_type](response.content))
    assert items, "an empty stream"
    for each in items:
        validator.validate(json.loads(each))
    return None


def events_of(data: bytes) -> Iterator[bytes]:
    lines = (line.removeprefix(b"data: ") for line in data.splitlines() if line.startswith(b"data: "))
    return (line for line in lines if line != b"[DONE]")


STREAMS = {EVENT_STREAM: events_of, "application/x-ndjson": bytes.splitlines, "text/plain": bytes.splitlines}
CHECKS: Any = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    streamed_items_conform,
)


def sent(case: schemathesis.Case) -> schemathesis.Case:
    """Nearly every request asks for the model that there is: otherwise most answers would be the same 404."""
    for fields, name in ((case.body, "model"), (case.path_parameters, "name")):
        if isinstance(fields, dict) and isinstance(fields.get(name), str) and len(fields[name]) != 3:
            fields[name] = MODEL
    if isinstance(case.body, dict) and case.meta and case.meta.generation.mode is GenerationMode.POSITIVE:
        make_agree(case.body)
    return case


NEEDS = {"stream_options": ("stream", True), "top_logprobs": ("logprobs", True), "best_of": ("stream", False)}
CONSTRAINTS = ("json_schema", "grammar", "guided_json", "guided_choice", "guided_grammar", "structured_outputs")
EXCLUSIVE = (
    ("stream_options", "best_of"),
    ("response_format", *CONSTRAINTS),
    ("documents", "texts"),
    ("content", "prompt", "messages"),
)


def make_agree(body: dict[str, Any]) -> None:
    """What the document cannot say: which fields need, and which exclude each other. Else most answers were 400s."""
    for name, (other, value) in NEEDS.items():
        if body.get(name) is not None and "max_output_tokens" not in body:
            body[other] = value
    for names in EXCLUSIVE:
        for name in [name for name in names if name in body][1:]:
            del body[name]
    body.pop("audio", None)


SAME_BODY = (
    "/v1/apply-template",
    "/v1/chat/completions/input_tokens",
    "/v1/reranking",
    "/v1/responses/input_tokens",
)


def is_like_another(context: Any) -> bool:
    path = context.operation.path
    return path in SAME_BODY or "x-alias-of" in schema.raw_schema["paths"][path]


schema = schemathesis.openapi.from_wsgi("/openapi.json", app())
others = schemathesis.openapi.from_wsgi(
    "/openapi.json", app(), config=SchemathesisConfig.from_dict({"phases": {"coverage": {"enabled": False}}})
)
# The same requests each time: a suite that fails now and then tells nobody what to do.
BOUNDED = {
    "derandomize": True,
    "deadline": None,
    "phases": [Phase.explicit, Phase.generate],
    "suppress_health_check": list(HealthCheck),
}


@schema.exclude(is_like_another).parametrize()
@settings(max_examples=EXAMPLES, **BOUNDED)
def test_the_document_is_kept(case: schemathesis.Case) -> None:
    sent(case).call_and_validate(checks=list(CHECKS))


@others.include(is_like_another).parametrize()
@settings(max_examples=FEW_EXAMPLES, **BOUNDED)
def test_the_document_is_kept_elsewhere_too(case: schemathesis.Case) -> None:
    sent(case).call_and_validate(checks=list(CHECKS))
