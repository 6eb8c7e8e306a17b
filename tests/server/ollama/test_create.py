"""create, pull, push and blobs over a fake service: bodies to requests, steps to lines, errors to statuses."""

from __future__ import annotations

import json
from typing import Any

import falcon.testing
import msgspec
import pytest
from fakes import FakeService

from dmr.errors import InvalidModelFile, InvalidReference, RegistryError, RemoteModelNotFound
from dmr.types import Message, ModelDefaults, NewModel, Role, TextPart, Tick, TransferProgress
from dmr_server.dialect import COMMENT_INTERVAL, Client
from dmr_server.ollama.modelfile import read_modelfile
from dmr_server.ollama.statuses import CREATE, PULL, StatusLines

DIGEST = "sha256:" + "ab" * 32
LAYER = TransferProgress("", 300, DIGEST, 200, 50)


def lines(result: falcon.testing.Result) -> list[dict[str, Any]]:
    assert result.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in result.text.splitlines()]


def post(client: falcon.testing.TestClient, path: str, **body: Any) -> falcon.testing.Result:
    return client.simulate_post(path, json=body)


# --- create: bodies --------------------------------------------------------------------------------------------------


def created(client: falcon.testing.TestClient, service: FakeService, **body: Any) -> NewModel:
    service.enqueue()
    result = post(client, "/api/create", model="mine", **body)
    assert result.status_code == 200, result.text
    return service.created[-1]


def test_everything_of_a_body_is_passed_on(client: falcon.testing.TestClient, service: FakeService) -> None:
    new = created(
        client,
        service,
        **{"from": "ai/smollm2"},
        quantize="q4_K_M",
        template="{{ .Prompt }}",
        system="Be brief.",
        license=["A", "B"],
        parameters={"temperature": 0.5, "stop": "END", "num_predict": 3, "num_ctx": 64, "num_keep": 2, "num_gpu": 1},
        messages=[{"role": "user", "content": "Hi"}],
    )
    assert new == NewModel(
        name="mine",
        base="ai/smollm2",
        quantization="q4_K_M",
        system="Be brief.",
        template="{{ .Prompt }}",
        messages=(Message(Role.USER, (TextPart("Hi"),)),),
        parameters={"temperature": 0.5, "stop": ("END",), "max_tokens": 3, "context_size": 64, "shift": 2},
        licenses=("A", "B"),
    )


def test_what_is_not_there_is_not_empty(client: falcon.testing.TestClient, service: FakeService) -> None:
    assert created(client, service, **{"from": "ai/smollm2"}) == NewModel("mine", "ai/smollm2")
    new = created(client, service, **{"from": "ai/smollm2"}, system="", template="", messages=[], license="")
    assert new == NewModel("mine", "ai/smollm2", system="", template="", messages=())
    new = created(client, service, **{"from": "ai/smollm2"}, system=None, messages=None, parameters=None)
    assert new == NewModel("mine", "ai/smollm2")


def test_a_parameter_can_be_taken_back(client: falcon.testing.TestClient, service: FakeService) -> None:
    new = created(client, service, **{"from": "ai/smollm2"}, parameters={"num_predict": -1, "stop": [], "num_ctx": 1})
    assert new.parameters == {"max_tokens": None, "stop": None, "context_size": 4}


def test_files_are_passed_on(client: falcon.testing.TestClient, service: FakeService) -> None:
    new = created(client, service, files={"a/b.gguf": DIGEST}, quantization="q8_0")
    assert new == NewModel("mine", files={"a/b.gguf": DIGEST}, quantization="q8_0")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "neither 'from' or 'files' was specified"),
        ({"from": "ai/smollm2", "files": {"a": DIGEST}}, "not both"),
        ({"files": {"/etc/passwd": DIGEST}}, "file path must be relative"),
        ({"files": {"../a": DIGEST}}, "file path must be relative"),
        ({"files": {"a": ""}}, "invalid digest format"),
        ({"files": {"a": "sha256:12"}}, "invalid digest format"),
        ({"files": []}, "files"),
        ({"from": "ai/smollm2", "adapters": {"a": ""}}, "invalid digest format"),
        ({"from": "ai/smollm2", "adapters": {"a": DIGEST}}, "adapters"),
        ({"from": "ai/smollm2", "draft_files": {"a": DIGEST}}, "draft models"),
        ({"from": "ai/smollm2", "template": "{{ .Prompt"}, "template"),
        ({"from": "ai/smollm2", "template": "{{ if .Prompt }}"}, "end"),
        ({"from": "ai/smollm2", "template": "{{ nosuch .Prompt }}"}, "nosuch"),
        ({"from": "ai/smollm2", "parameters": {"temperature": "warm"}}, "temperature"),
        ({"from": "ai/smollm2", "parameters": 1}, "parameters"),
        ({"from": "ai/smollm2", "messages": [{"role": "clown", "content": "x"}]}, "clown"),
        ({"from": "ai/smollm2", "license": 5}, "license"),
        ({"from": "ai/smollm2", "info": {"context_length": "x"}}, "info"),
        ({"from": "ai/smollm2", "requires": "new"}, "requires"),
        ({"from": "ai/smollm2", "requires": "0.34.0"}, "requires"),
        ({"from": "ai/smollm2", "stream": "no"}, "stream"),
        ({"from": 5}, "from"),
        ({"modelfile": "SYSTEM x"}, "no FROM"),
        ({"modelfile": "FROM /etc/passwd"}, "/api/blobs"),
    ],
)
def test_wrong_bodies_are_told(
    client: falcon.testing.TestClient, service: FakeService, body: dict[str, Any], reason: str
) -> None:
    result = post(client, "/api/create", model="mine", **body)
    assert result.status_code == 400, result.text
    assert reason in result.json["error"]
    assert service.created == []


@pytest.mark.parametrize("version", ["0.33.0", "0.9", "v0.14.2", "0.1.0-rc1"])
def test_versions_that_are_spoken_will_do(
    client: falcon.testing.TestClient, service: FakeService, version: str
) -> None:
    assert created(client, service, **{"from": "ai/smollm2"}, requires=version).name == "mine"


def test_a_model_is_needed(client: falcon.testing.TestClient) -> None:
    for path in ("/api/create", "/api/pull", "/api/push"):
        result = post(client, path)
        assert (result.status_code, result.json) == (400, {"error": "model is required"})


# --- create: answers -------------------------------------------------------------------------------------------------


def test_steps_are_lines(client: falcon.testing.TestClient, service: FakeService) -> None:
    quantizing = TransferProgress("quantizing F16 model to Q8_0", 10, "", 10, 4)
    service.enqueue(Tick(), TransferProgress("parsing GGUF"), quantizing, Tick(), TransferProgress("writing manifest"))
    assert lines(post(client, "/api/create", model="mine", files={"a": DIGEST})) == [
        {"status": "parsing GGUF"},
        {"status": "quantizing F16 model to Q8_0", "total": 10, "completed": 4},
        {"status": "writing manifest"},
        {"status": "success"},
    ]


def test_without_stream_only_the_end_is_told(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.enqueue(TransferProgress("writing manifest"))
    result = post(client, "/api/create", model="mine", files={"a": DIGEST}, stream=False)
    assert (result.headers["content-type"], result.json) == ("application/json", {"status": "success"})


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/api/create", "/api/pull", "/api/push"])
def test_an_error_before_the_first_step_has_its_status(
    client: falcon.testing.TestClient, service: FakeService, path: str, stream: bool
) -> None:
    service.enqueue(Tick(), InvalidModelFile("'a' is no GGUF"))
    base = {"from": "ai/smollm2"} if path == "/api/create" else {}
    result = post(client, path, model="ai/smollm2", stream=stream, **base)
    assert (result.status_code, result.json) == (400, {"error": "'a' is no GGUF"})


def test_an_error_after_the_first_step_is_the_last_line(
    client: falcon.testing.TestClient, service: FakeService
) -> None:
    service.enqueue(TransferProgress("parsing GGUF"), InvalidModelFile("'a' is no GGUF"))
    result = post(client, "/api/create", model="mine", files={"a": DIGEST})
    assert lines(result) == [{"status": "parsing GGUF"}, {"error": "'a' is no GGUF"}]
    service.enqueue(TransferProgress("parsing GGUF"), RuntimeError("a defect"))
    result = post(client, "/api/create", model="mine", files={"a": DIGEST})
    assert lines(result)[-1] == {"error": "Something went wrong here; see the server's log."}


def test_an_unknown_base_is_pulled_first(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.enqueue(LAYER)
    service.enqueue(TransferProgress("writing manifest"))
    result = post(client, "/api/create", model="mine", **{"from": "ai/absent"})
    assert service.transfers == [("pull", "ai/absent", "ai/absent", None, False)]
    assert service.created == [NewModel("mine", "ai/absent")]
    assert [line["status"] for line in lines(result)] == [
        "pulling manifest",
        "pulling abababababab",
        "writing manifest",
        "success",
    ]


def test_a_bad_name_is_told_in_ollamas_words(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.enqueue(InvalidReference("It is empty."))
    result = post(client, "/api/create", model="//", **{"from": "ai/smollm2"})
    assert (result.status_code, result.json) == (400, {"error": "invalid model name: It is empty."})


# --- pull and push ---------------------------------------------------------------------------------------------------


def test_a_pull_tells_its_layers(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.enqueue(Tick(), LAYER, TransferProgress("Using what is there"), TransferProgress("", 300))
    result = post(client, "/api/pull", name="some/model", insecure=True)
    assert service.transfers == [("pull", "some/model", "some/model", None, True)]
    assert lines(result) == [
        {"status": "pulling manifest"},
        {"status": "pulling abababababab", "digest": DIGEST, "total": 200, "completed": 50},
        {"status": "Using what is there"},
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
        {"status": "success"},
    ]


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (RemoteModelNotFound("No such tag."), 404, "pull model manifest: file does not exist: No such tag."),
        (RegistryError("It cannot be reached."), 502, "It cannot be reached."),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_a_pull_that_fails(
    client: falcon.testing.TestClient, service: FakeService, error: Exception, status: int, text: str, stream: bool
) -> None:
    service.enqueue(error)
    result = post(client, "/api/pull", model="some/model", stream=stream)
    assert (result.status_code, result.json) == (status, {"error": text})


def test_a_push_tells_its_layers(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.enqueue(LAYER)
    result = post(client, "/api/push", model="ai/smollm2")
    assert service.transfers == [("push", "ai/smollm2", "ai/smollm2", None, False)]
    assert [line["status"] for line in lines(result)] == [
        "retrieving manifest",
        "pushing abababababab",
        "pushing manifest",
        "success",
    ]


def test_an_unknown_model_is_not_pushed(client: falcon.testing.TestClient, service: FakeService) -> None:
    assert post(client, "/api/push", model="ai/absent").status_code == 404
    assert service.transfers == []


def test_silence_is_broken_by_the_same_line_again() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += COMMENT_INTERVAL / 2
        return now

    def said(steps: list[Any], wording: Any) -> list[bytes]:
        return list(StatusLines([], iter(steps), Client({}), wording, clock))

    again = said([Tick()] * 4, PULL)
    assert again[:3] == [b'{"status":"pulling manifest"}\n'] * 3
    assert said([Tick()] * 4, CREATE)[:2] == [b'{"status":"waiting"}\n'] * 2


# --- blobs -----------------------------------------------------------------------------------------------------------


def test_blobs_come_and_are_there(client: falcon.testing.TestClient, service: FakeService) -> None:
    assert client.simulate_head(f"/api/blobs/{DIGEST}").status_code == 404
    result = client.simulate_post(f"/api/blobs/{DIGEST}", body=b"bytes")
    assert (result.status_code, result.content) == (201, b"")
    assert service.files == {DIGEST: b"bytes"}
    assert client.simulate_head(f"/api/blobs/{DIGEST}").status_code == 200
    result = client.simulate_post(f"/api/blobs/{DIGEST}", body=b"other")
    assert (result.status_code, result.content) == (200, b"")
    assert service.files == {DIGEST: b"bytes"}


# --- Modelfiles ------------------------------------------------------------------------------------------------------


def test_a_modelfile_is_read() -> None:
    text = '''# a comment
FROM ai/smollm2
  # another
parameter temperature 0.5
PARAMETER stop "<|end|>"
PARAMETER stop a b
PARAMETER stop "\\n"
PARAMETER ignore_eos true
PARAMETER logit_bias {"7": 1.5}
TEMPLATE """{{ .System }}
{{ .Prompt }}"""
SYSTEM You are "brief".
MESSAGE user Hi
MESSAGE assistant """Ho
ho"""
LICENSE "MIT"
LICENSE """
Apache
"""
REQUIRES 0.14.0'''
    expected = {
        "from": "ai/smollm2",
        "parameters": {
            "temperature": 0.5,
            "stop": ["<|end|>", "a b", "\n"],
            "ignore_eos": True,
            "logit_bias": {"7": 1.5},
        },
        "template": "{{ .System }}\n{{ .Prompt }}",
        "system": 'You are "brief".',
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho\nho"}],
        "license": ["MIT", "\nApache\n"],
        "requires": "0.14.0",
    }
    assert read_modelfile(text) == expected
    assert read_modelfile(text.replace("\n", "\r\n")) == expected


def test_a_modelfile_may_name_blobs() -> None:
    text = f"FROM @{DIGEST}\nFROM {DIGEST}\n"
    assert read_modelfile(text) == {"files": {"model-0.gguf": DIGEST, "model-1.gguf": DIGEST}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no FROM"),
        ("# only a comment", "no FROM"),
        ("FROM", "FROM"),
        ("HELLO world", "HELLO"),
        ("FROM a\nnonsense", "nonsense"),
        ("FROM a\nPARAMETER stop", "needs a name and a value"),
        ('FROM a\nSYSTEM """open', "not closed"),
        ("FROM ./model.gguf", "/api/blobs"),
        ("FROM C:\\model", "/api/blobs"),
        ("FROM ~/x", "/api/blobs"),
        ("\0", "does not begin"),
    ],
)
def test_modelfiles_that_cannot_be_read(
    client: falcon.testing.TestClient, service: FakeService, text: str, reason: str
) -> None:
    result = post(client, "/api/create", model="mine", modelfile=text or " ")
    assert result.status_code == 400
    assert reason in result.json["error"]


def test_a_modelfile_takes_no_longer_than_its_length_deserves() -> None:
    hostile = "FROM a\n" + '"""' * 300_000
    with pytest.raises(Exception, match="does not begin"):
        read_modelfile(hostile)
    assert read_modelfile("FROM a\n" + "# x\n" * 200_000 + " \n" * 200_000) == {"from": "a"}


def test_fields_lie_over_the_modelfile(client: falcon.testing.TestClient, service: FakeService) -> None:
    new = created(client, service, modelfile="FROM ai/smollm2\nSYSTEM one", system="two")
    assert new == NewModel("mine", "ai/smollm2", system="two")


def test_what_show_writes_can_be_read_again(client: falcon.testing.TestClient, service: FakeService) -> None:
    parameters = {
        "temperature": 0.5,
        "stop": ("a", '"\n'),
        "max_tokens": 5,
        "shift": 2,
        "order": ("top_k",),
        "logit_bias": ((7, 2.0),),
    }
    defaults = ModelDefaults("Sys\ntem", "{{ .Prompt }}", (Message(Role.USER, (TextPart("Hi"),)),), parameters)
    service.models[0] = msgspec.structs.replace(
        service.models[0], defaults=defaults, licenses=("L",), parent="docker.io/ai/base:latest"
    )
    shown = post(client, "/api/show", model="ai/smollm2").json
    assert shown["details"]["parent_model"] == "ai/base:latest"
    new = created(client, service, modelfile=shown["modelfile"])
    assert new == NewModel(
        "mine", "ai/smollm2:latest", {}, "", "Sys\ntem", "{{ .Prompt }}", defaults.messages, parameters, ("L",)
    )
