"""Which files of a repository belong together, and which of them a user means. Nothing else is ever taken instead."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from dmr.errors import RemoteModelNotFound, Unsupported
from dmr.store.hugging_face.client import HubFile
from dmr.store.hugging_face.names import HubModel

DEFAULT_QUANTIZATION = "Q4_K_M"
MAX_TOLD = 500  # characters of names in an error

_SHARD = re.compile(r"(?P<base>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL | re.IGNORECASE)
_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|BF16|F16|F32|FP16|FP32|MXFP4\w*))(?![A-Za-z0-9])", re.IGNORECASE
)
_PROJECTOR = "mmproj"
# Files of the same kind that are no language models: statistics for quantizing, and heads that guess for another model.
_NO_MODEL = re.compile(r"imatrix|(?:^|/)(?:mtp|dspark)-[^/]*$", re.IGNORECASE)
_PROJECTOR_ORDER = ("F16", "BF16", "F32")


class Weights(msgspec.Struct, frozen=True):
    """One model of a repository: a file, or all its shards in order. `base` is the path without number and ending."""

    base: str
    files: tuple[HubFile, ...]

    @property
    def folder(self) -> str:
        return self.base.rpartition("/")[0]

    @property
    def quantization(self) -> str:
        """As far as the name tells, in capitals: of the file if that names one, else of the folder."""
        found = _QUANTIZATION.findall(self.base.rpartition("/")[2]) or _QUANTIZATION.findall(self.folder)
        return found[-1].upper() if found else ""


class Choice(msgspec.Struct, frozen=True):
    """`is_default`: the user named no quantization, and there were several."""

    weights: Weights
    projector: HubFile | None
    is_default: bool


def choose(files: Sequence[HubFile], model: HubModel) -> Choice:
    """Raises Unsupported: no GGUF files; RemoteModelNotFound: none of that quantization, several, or not all shards."""
    candidates = list_weights(files)
    if not candidates:
        raise Unsupported(f"{model.repository} has no GGUF files.")
    is_default = not model.quantization and len(candidates) > 1
    wanted = model.quantization or (DEFAULT_QUANTIZATION if is_default else "")
    found = _matching(candidates, wanted) if wanted else candidates
    if len(found) != 1:
        raise RemoteModelNotFound(_explain(model.repository, wanted, found or candidates, bool(found)))
    _check_shards(model.repository, found[0])
    return Choice(found[0], choose_projector(files, found[0].folder), is_default)


def has_gguf(files: Sequence[HubFile]) -> bool:
    return bool(list_weights(files))


def list_weights(files: Sequence[HubFile]) -> list[Weights]:
    groups: dict[str, list[HubFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        if (
            file.path.lower().endswith(".gguf")
            and _PROJECTOR not in file.name.lower()
            and not _NO_MODEL.search(file.path)
        ):
            shard = _SHARD.fullmatch(file.path)
            groups.setdefault(shard["base"] if shard else file.path[: -len(".gguf")], []).append(file)
    return [Weights(base, tuple(group)) for base, group in groups.items()]


def _matching(candidates: Sequence[Weights], wanted: str) -> list[Weights]:
    """By the file's whole name, else by its quantization, else by a word of its path."""
    name = wanted.lower().removesuffix(".gguf")
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9_])", re.IGNORECASE)
    for matches in (
        [one for one in candidates if one.base.rpartition("/")[2].lower() == name],
        [one for one in candidates if one.quantization.lower() == name],
        [one for one in candidates if word.search(one.base)],
    ):
        if matches:
            return matches
    return []


def _explain(repository: str, wanted: str, there: Sequence[Weights], is_ambiguous: bool) -> str:
    names = sorted({one.base.rpartition("/")[2] for one in there})
    if is_ambiguous:
        return (
            f"{repository} has several models{f' for {wanted}' if wanted else ''}: {_told(names)}. "
            "Name one of these files after the colon."
        )
    quantizations = sorted({one.quantization or one.base.rpartition("/")[2] for one in there})
    return f"{repository} has no {wanted}; it has: {_told(quantizations)}. Name one after a colon."


def _told(names: Sequence[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= MAX_TOLD else f"{text[:MAX_TOLD]}…"


def _check_shards(repository: str, weights: Weights) -> None:
    shards = [_SHARD.fullmatch(file.path) for file in weights.files]
    numbers = [int(shard["number"]) for shard in shards if shard]
    counts = {int(shard["count"]) for shard in shards if shard}
    if numbers and (len(counts) != 1 or numbers != list(range(1, max(counts) + 1))):
        raise RemoteModelNotFound(f"{repository} has {len(numbers)} of {max(counts)} shards of {weights.base}.")


def choose_projector(files: Sequence[HubFile], folder: str) -> HubFile | None:
    """The vision projector: of the weights' own folder first, and half precision first."""
    found = [file for file in files if _PROJECTOR in file.name.lower() and file.path.lower().endswith(".gguf")]

    def rank(file: HubFile) -> tuple[bool, int, str]:
        words = {word.upper() for word in _QUANTIZATION.findall(file.name)}
        precision = next(
            (number for number, name in enumerate(_PROJECTOR_ORDER) if name in words), len(_PROJECTOR_ORDER)
        )
        return file.path.rpartition("/")[0] != folder, precision, file.path

    return min(found, key=rank, default=None)
