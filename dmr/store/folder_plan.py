"""Decides what a model made of a folder of safetensors files consists of: one layer for each file, with its path."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dmr.errors import InvalidModelFile
from dmr.store.gguf_config import MAX_CONTEXT_SIZE, format_count
from dmr.store.gguf_cursor import open_regular_file
from dmr.store.import_plan import ImportPlan, SourceFile, plan_text
from dmr.store.manifest import (
    CHAT_TEMPLATE_TYPE,
    CONFIG_V02_TYPE,
    DDUF_TYPE,
    FILE_TYPE,
    LICENSE_TYPE,
    SAFETENSORS_TYPE,
    is_license_name,
)
from dmr.store.safetensors import SafetensorsHeader, read_safetensors_header
from dmr.types import ModelConfig

MAX_FILES = 10_000
MAX_CONFIG_FILE_BYTES = 16 << 20
_FILE_SUFFIXES = (".md", ".txt", ".json", ".vocab")
_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_ctx",
    "n_positions",
    "max_length",
    "max_sequence_length",
    "model_max_length",
)
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def plan_folder(folder: Path, chat_template: Path | None = None, licenses: Sequence[Path] = ()) -> ImportPlan:
    """What to package of a folder, subfolders included. A template and licences that are given stand beside its own.

    Raises:
        InvalidModelFile: there are no weights in it, or a file is damaged.
    """
    files = [_source(folder, path) for path in _walk(folder)]
    found = [file for file in files if file is not None]
    weights = [file for file in found if file.media_type == SAFETENSORS_TYPE]
    if not weights:
        raise InvalidModelFile(f"{folder} has no .safetensors files.")
    if chat_template is not None:
        found = [file for file in found if file.media_type != CHAT_TEMPLATE_TYPE]
        found.append(plan_text(chat_template, CHAT_TEMPLATE_TYPE, "chat_template.jinja"))
    names = {file.name for file in found}
    for path in licenses:
        found.append(plan_text(path, LICENSE_TYPE, _free_name("LICENSE", names)))
    config = _describe([read_safetensors_header(file.path) for file in weights], weights, _read_config(folder))
    return ImportPlan((*weights, *(file for file in found if file not in weights)), config, CONFIG_V02_TYPE)


def plan_dduf(path: Path, licenses: Sequence[Path] = ()) -> ImportPlan:
    """A DDUF file: a diffusion model in one (uncompressed zip) archive. Raises InvalidModelFile."""
    with open_regular_file(path) as file:
        if file.read(4) != b"PK\x03\x04":
            raise InvalidModelFile(f"{path} is not a DDUF file: it is no zip archive.")
        size = os.fstat(file.fileno()).st_size
    config = ModelConfig(
        format="diffusers",
        architecture="diffusers",
        size=format_decimal(size),
        diffusers={"layout": "dduf", "dduf_file": "model.dduf"},
    )
    texts = [
        plan_text(text, LICENSE_TYPE, f"LICENSE-{n}" if n > 1 else "LICENSE") for n, text in enumerate(licenses, 1)
    ]
    return ImportPlan((SourceFile(path, DDUF_TYPE, "model.dduf", size), *texts), config, CONFIG_V02_TYPE)


def _walk(folder: Path) -> list[Path]:
    """All files but hidden ones, sorted by path. Raises InvalidModelFile."""
    if not folder.is_dir():
        raise InvalidModelFile(f"{folder} is not a folder.")
    found: list[Path] = []
    for current, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(current) / name for name in names if not name.startswith(".")]
        if len(found) > MAX_FILES:
            raise InvalidModelFile(f"{folder} has more than {MAX_FILES} files.")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _source(folder: Path, path: Path) -> SourceFile | None:
    """The file as a layer, by the class that its name tells; None for one that belongs to no model."""
    name, relative = path.name.lower(), path.relative_to(folder).as_posix()
    if name.endswith(".safetensors"):
        with open_regular_file(path) as file:
            return SourceFile(path, SAFETENSORS_TYPE, relative, os.fstat(file.fileno()).st_size)
    if name.endswith(".jinja"):
        return plan_text(path, CHAT_TEMPLATE_TYPE, relative)
    if is_license_name(name) and not name.endswith(".json"):
        return plan_text(path, LICENSE_TYPE, relative)
    if name.endswith(_FILE_SUFFIXES) or name == "tokenizer.model":
        with open_regular_file(path) as file:
            return SourceFile(path, FILE_TYPE, relative, os.fstat(file.fileno()).st_size)
    return None


def _free_name(name: str, taken: set[str]) -> str:
    names = (name, *(f"{name}-{number}" for number in range(2, MAX_FILES)))
    free = next(each for each in names if each not in taken)
    taken.add(free)
    return free


def _read_config(folder: Path) -> Mapping[str, Any]:
    """config.json, if there is one that can be read: it is no part of the weights, so it may say what it likes."""
    path = folder / "config.json"
    try:
        if path.stat().st_size > MAX_CONFIG_FILE_BYTES:
            return {}
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return {}


def _describe(
    headers: Sequence[SafetensorsHeader], weights: Sequence[SourceFile], config: Mapping[str, Any]
) -> ModelConfig:
    types = frozenset[str]().union(*(header.types for header in headers))
    num_tensors = sum(header.num_tensors for header in headers)
    return ModelConfig(
        format="safetensors",
        quantization="mixed" if len(types) > 1 else next(iter(types), "unknown"),
        parameters=format_count(sum(header.num_parameters for header in headers)),
        architecture=_architecture(config),
        size=format_decimal(sum(file.size for file in weights)),
        context_size=_context_size(config),
        safetensors={**headers[0].metadata, "tensor_count": str(num_tensors)},
    )


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else config.get("model_type")
    return first[:200] if isinstance(first, str) else ""


def _context_size(config: Mapping[str, Any]) -> int | None:
    """Models of several parts keep it with the part that writes text."""
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        for size in map(part.get, _CONTEXT_KEYS):
            if isinstance(size, int) and not isinstance(size, bool) and 0 < size <= MAX_CONTEXT_SIZE:
                return size
    return None


def format_decimal(num_bytes: int) -> str:
    """270590880 -> "270.59MB": base 1000, two decimals, no space."""
    amount, unit = float(num_bytes), 0
    while round(amount, 2) >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.2f}{_UNITS[unit]}" if unit else f"{num_bytes}B"
