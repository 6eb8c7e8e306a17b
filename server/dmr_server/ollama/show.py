"""POST /api/show: all there is to know about one model, also as the text of a Modelfile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Union

import msgspec
from msgspec import UNSET, UnsetType

from dmr.types import ModelDefaults, ModelRecord
from dmr_server.fields import checked
from dmr_server.ollama.fields import text_of
from dmr_server.ollama.models import Details, to_details, to_model_info
from dmr_server.ollama.names import name_of
from dmr_server.ollama.wire import timestamp

NAME_WIDTH = 30  # characters of a parameter's name in the listing
_OLLAMA_NAMES: Mapping[str, str] = {
    "max_tokens": "num_predict",
    "context_size": "num_ctx",
    "shift": "num_keep",
    "order": "samplers",
}


class ShownMessage(msgspec.Struct, frozen=True):
    role: str
    content: str


class ShownModel(msgspec.Struct, frozen=True, kw_only=True):
    license: Union[str, UnsetType] = UNSET
    modelfile: str
    parameters: Union[str, UnsetType] = UNSET
    template: Union[str, UnsetType] = UNSET
    system: Union[str, UnsetType] = UNSET
    details: Details
    messages: Union[list[ShownMessage], UnsetType] = UNSET
    model_info: dict[str, Any]
    capabilities: tuple[str, ...]
    modified_at: str


class ShowFields(msgspec.Struct, frozen=True):
    """What a request lays over the model's own: `system`, `template` and `options`."""

    verbose: bool
    system: str
    template: str
    options: dict[str, Any]


def read_show(body: Mapping[str, Any]) -> ShowFields:
    """The fields beside the model's name; raises InvalidRequest."""
    return ShowFields(
        verbose=checked(body.get("verbose", False), bool, "verbose"),
        system=text_of(body, "system"),
        template=text_of(body, "template"),
        options=checked(body.get("options", {}), dict[str, Any], "options"),
    )


def to_shown(
    record: ModelRecord, reference: str, chat_template: str, capabilities: tuple[str, ...], asked: ShowFields
) -> ShownModel:
    """`chat_template` is the model's own, for when neither the request nor its defaults have one."""
    defaults = record.defaults
    defaults = msgspec.structs.replace(
        defaults,
        system=asked.system or defaults.system,
        template=asked.template or defaults.template or chat_template,
        parameters={**_parameters(defaults), **asked.options},
    )
    license = "\n".join(record.licenses) or record.config.gguf.get("general.license", "")
    return ShownModel(
        license=license or UNSET,
        modelfile="\n".join(_modelfile(defaults, name_of(record, reference), record.licenses)) + "\n",
        parameters="\n".join(_parameter_lines(defaults.parameters)) or UNSET,
        template=defaults.template or UNSET,
        system=defaults.system or UNSET,
        details=to_details(record.config, record.parent),
        messages=[ShownMessage(message.role.value, message.text) for message in defaults.messages] or UNSET,
        model_info=to_model_info(record.config, asked.verbose),
        capabilities=capabilities,
        modified_at=timestamp(record.created),
    )


def _parameters(defaults: ModelDefaults) -> dict[str, Any]:
    """The model's own parameters under the names of this API."""
    parameters = {_OLLAMA_NAMES.get(name, name): value for name, value in defaults.parameters.items()}
    if "logit_bias" in parameters:
        parameters["logit_bias"] = {str(token): bias for token, bias in parameters["logit_bias"]}
    return parameters


def _parameter_lines(parameters: Mapping[str, Any]) -> Iterator[str]:
    for name, value in _flat(parameters):
        yield f"{name:<{NAME_WIDTH}} {value}"


def _flat(parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A pair for each value of a list; texts in quotes."""
    for name, value in sorted(parameters.items()):
        for each in value if isinstance(value, (list, tuple)) else (value,):
            yield name, msgspec.json.encode(each).decode()


def _modelfile(defaults: ModelDefaults, name: str, licenses: tuple[str, ...]) -> Iterator[str]:
    yield "# This Modelfile describes a model of dmr; make another one of it with 'from' in /api/create."
    yield f"FROM {name}"
    if defaults.template:
        yield f"TEMPLATE {_quoted(defaults.template)}"
    if defaults.system:
        yield f"SYSTEM {_quoted(defaults.system)}"
    for parameter, value in _flat(defaults.parameters):
        yield f"PARAMETER {parameter} {value}"
    for message in defaults.messages:
        yield f"MESSAGE {message.role.value} {_quoted(message.text)}"
    for license in licenses:
        yield f"LICENSE {_quoted(license)}"


def _quoted(text: str) -> str:
    """Text that may span lines."""
    return f'"""{text}"""'
