"""Decides what a model made of files on this disk consists of, and that every one of them is sound."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dmr.errors import InvalidModelFile
from dmr.store.gguf import GGUFHeader, read_gguf_header
from dmr.store.gguf_config import describe_gguf
from dmr.store.gguf_cursor import open_regular_file
from dmr.store.manifest import CHAT_TEMPLATE_TYPE, CONFIG_TYPE, GGUF_TYPE, LICENSE_TYPE, MMPROJ_TYPE
from dmr.types import ModelConfig

MAX_TEXT_BYTES = 4 << 20  # a chat template or a licence
PROJECTOR_ARCHITECTURE = "clip"

_SHARD = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


class SourceFile(msgspec.Struct, frozen=True):
    """A file that becomes a layer. `name` is the annotated path: not the user's own, so that bytes are reproducible."""

    path: Path
    media_type: str
    name: str
    size: int


class ImportPlan(msgspec.Struct, frozen=True):
    files: tuple[SourceFile, ...]
    config: ModelConfig
    config_type: str = CONFIG_TYPE


def plan_import(
    path: Path, mmproj: Path | None = None, chat_template: Path | None = None, licenses: Sequence[Path] = ()
) -> ImportPlan:
    """What to import for the model at `path`; of a split model any shard may be given, the others lie beside it.

    Raises:
        InvalidModelFile: a file is missing, damaged, or not what it should be.
    """
    return _plan(_read_shards(path), mmproj, chat_template, licenses)


def plan_files(paths: Sequence[Path]) -> ImportPlan:
    """The same for files of any name, in any order: all shards of one model, and perhaps its projector.

    Raises:
        InvalidModelFile: a file is damaged, or these are not the files of one model.
    """
    headers = [(path, read_gguf_header(path)) for path in paths]
    projectors = [path for path, header in headers if is_projector(header)]
    shards = [(path, header) for path, header in headers if not is_projector(header)]
    if not shards or len(projectors) > 1:
        raise InvalidModelFile("A model is one language model, and with it at most one vision projector.")
    shards.sort(key=lambda shard: shard[1].integer("split.no") or 0)
    count = shards[0][1].integer("split.count") or 1
    if len(shards) != count:
        raise InvalidModelFile(
            f"{shards[0][0]} is one of {count} shards, but there are {len(shards)} files of weights."
        )
    if count > 1:
        for number, (path, header) in enumerate(shards):
            _check_shard(path, header, number, count)
    return _plan(shards, projectors[0] if projectors else None)


def _plan(
    shards: Sequence[tuple[Path, GGUFHeader]],
    mmproj: Path | None = None,
    chat_template: Path | None = None,
    licenses: Sequence[Path] = (),
) -> ImportPlan:
    (first_path, header), *more = shards
    _check_is_model(first_path, [shard for _, shard in shards])
    files = [_weights(shard, number, len(shards)) for number, (shard, _) in enumerate(shards, 1)]
    config = describe_gguf(header, files[0].size, [(more[i][1], files[i + 1].size) for i in range(len(more))])
    if mmproj is not None:
        files.append(_projector(mmproj))
    if chat_template is not None:
        files.append(plan_text(chat_template, CHAT_TEMPLATE_TYPE, "template.jinja"))
    for number, license_path in enumerate(licenses):
        files.append(plan_text(license_path, LICENSE_TYPE, f"LICENSE-{number + 1}" if number else "LICENSE"))
    return ImportPlan(tuple(files), config)


def _read_shards(path: Path) -> list[tuple[Path, GGUFHeader]]:
    header = read_gguf_header(path)
    count = header.integer("split.count") or 1
    if count <= 1:
        return [(path, header)]
    match = _SHARD.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise InvalidModelFile(
            f"{path} is one of {count} shards; they must be named like model-00001-of-{count:05}.gguf to be found."
        )
    names = [f"{match['prefix']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    return [_read_shard(path.with_name(name), number, count) for number, name in enumerate(names)]


def _read_shard(path: Path, number: int, count: int) -> tuple[Path, GGUFHeader]:
    if not path.exists():
        raise InvalidModelFile(f"{path} is missing: all {count} shards must lie in the same folder.")
    header = read_gguf_header(path)
    _check_shard(path, header, number, count)
    return path, header


def _check_shard(path: Path, header: GGUFHeader, number: int, count: int) -> None:
    if header.integer("split.no") != number or header.integer("split.count") != count:
        raise InvalidModelFile(f"{path} is not shard {number + 1} of {count}, whatever its name says.")


def _check_is_model(path: Path, headers: Sequence[GGUFHeader]) -> None:
    if not headers[0].text("general.architecture"):
        raise InvalidModelFile(f"{path} does not name its architecture (general.architecture).")
    if is_projector(headers[0]):
        raise InvalidModelFile(f"{path} is a vision projector; import it together with its language model.")
    expected = headers[0].integer("split.tensors.count")
    found = sum(header.num_tensors for header in headers)
    if found == 0 or (len(headers) > 1 and expected is not None and found != expected):
        raise InvalidModelFile(
            f"{path} has {found} tensors{'' if expected is None else f', but {expected} belong to it'}."
        )


def _weights(path: Path, number: int, count: int) -> SourceFile:
    name = "model.gguf" if count == 1 else f"model-{number:05}-of-{count:05}.gguf"
    return SourceFile(path, GGUF_TYPE, name, path.stat().st_size)


def is_projector(header: GGUFHeader) -> bool:
    return header.text("general.architecture") == PROJECTOR_ARCHITECTURE


def _projector(path: Path) -> SourceFile:
    if not is_projector(read_gguf_header(path)):
        raise InvalidModelFile(f"{path} is not a vision projector.")
    return SourceFile(path, MMPROJ_TYPE, "model.mmproj", path.stat().st_size)


def plan_text(path: Path, media_type: str, name: str) -> SourceFile:
    """A text as a layer. Raises InvalidModelFile: it is too long, or not UTF-8."""
    with open_regular_file(path) as file:
        data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise InvalidModelFile(f"{path} is larger than the {MAX_TEXT_BYTES} bytes a text may have.")
    try:
        data.decode()
    except UnicodeDecodeError:
        raise InvalidModelFile(f"{path} is not UTF-8 text.") from None
    return SourceFile(path, media_type, name, len(data))
