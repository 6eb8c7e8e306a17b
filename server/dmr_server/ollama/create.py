"""POST /api/create: what a new model is made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from dmr.errors import InvalidRequest, Unsupported
from dmr.go_template import GoTemplate
from dmr.types import Message, NewModel, TextPart
from dmr_server.fields import checked
from dmr_server.ollama.fields import flag, required_model, text_of
from dmr_server.ollama.messages import read_messages
from dmr_server.ollama.modelfile import read_modelfile
from dmr_server.ollama.options import read_options
from dmr_server.ollama.wire import VERSION

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
_NUMBERS = re.compile(r"v?([0-9]{1,9})(?:\.([0-9]{1,9}))?(?:\.([0-9]{1,9}))?(?:[-+].*)?", re.DOTALL)

# Fields that Ollama documents for what does not exist here, and why.
_ABSENT: Mapping[str, str] = {
    "draft_files": "draft models are not available",
    "draft_quantize": "draft models are not available",
    "renderer": "there are no built-in renderers; the template says how a conversation is written",
    "parser": "there are no built-in parsers; the template says how an answer is read",
    "info": "a model's metadata is what its file says",
    "remote_host": "models run here and nowhere else",
}


class CreateFields(NamedTuple):
    new: NewModel
    stream: bool


def read_create(body: Mapping[str, Any]) -> CreateFields:
    """Understand a body; a `modelfile` in it is what the other fields lie over. Raises InvalidRequest, Unsupported."""
    if modelfile := text_of(body, "modelfile"):
        body = {**read_modelfile(modelfile), **body}
    name = required_model(body)
    for field, reason in _ABSENT.items():
        if body.get(field):
            raise Unsupported(f"'{field}' is not supported: {reason}", param=field)
    _check_adapters(body.get("adapters", {}))
    _check_version(text_of(body, "requires"))
    base, files = text_of(body, "from"), _read_files(body.get("files", {}))
    if not base and not files:
        raise InvalidRequest("neither 'from' or 'files' was specified", param="from")
    if base and files:
        raise InvalidRequest("either 'from' or 'files' is what a model is made of, not both", param="files")
    new = NewModel(
        name=name,
        base=base,
        files=files,
        quantization=text_of(body, "quantize") or text_of(body, "quantization"),
        system=text_of(body, "system") if "system" in body else None,
        template=_read_template(body),
        messages=_read_messages(body),
        parameters=_read_parameters(body.get("parameters")),
        licenses=_read_licenses(body.get("license", [])),
    )
    return CreateFields(new, flag(body, "stream", True))


def _read_files(value: Any) -> dict[str, str]:
    files = checked(value, dict[str, str], "files")
    for name, digest in files.items():
        if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InvalidRequest("file path must be relative", param="files")
        if not _DIGEST.fullmatch(digest):
            raise InvalidRequest("invalid digest format", param="files")
    return files


def _check_adapters(value: Any) -> None:
    adapters = checked(value, dict[str, str], "adapters")
    if any(not digest for digest in adapters.values()):
        raise InvalidRequest("invalid digest format", param="adapters")
    if adapters:
        raise Unsupported("'adapters' are not available; merge them into the weights", param="adapters")


def _check_version(wanted: str) -> None:
    if not wanted:
        return
    numbers = _NUMBERS.fullmatch(wanted)
    if numbers is None:
        raise InvalidRequest(f"requires: {wanted[:40]!r} is no version", param="requires")
    if tuple(int(part or 0) for part in numbers.groups()) > tuple(map(int, VERSION.split("."))):
        raise Unsupported(f"requires: this server speaks version {VERSION} of the API", param="requires")


def _read_template(body: Mapping[str, Any]) -> str | None:
    if "template" not in body:
        return None
    template = text_of(body, "template")
    if "{%" not in template:
        GoTemplate(template)  # raises for one that cannot be read
    return template


def _read_messages(body: Mapping[str, Any]) -> tuple[Message, ...] | None:
    if "messages" not in body:
        return None
    messages = read_messages(body["messages"])
    if not all(isinstance(part, TextPart) for message in messages for part in message.parts):
        raise Unsupported("the messages that a model begins with are text only: leave out images", param="messages")
    return messages


def _read_parameters(value: Any) -> dict[str, Any]:
    """By our names; None for one that is to be as if it had never been set."""
    options = read_options(checked({} if value is None else value, dict[str, Any], "parameters"))
    own: dict[str, Any] = {
        "max_tokens": options.max_tokens,
        "context_size": options.context_size,
        "shift": options.num_keep,
        "stop": options.stop or None,
    }
    return {name: own[name] if name in own else getattr(options.sampling, name) for name in sorted(options.given)}


def _read_licenses(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else checked(value, list[str], "license")
    return tuple(text for text in texts if text)
