"""What a model can do, as far as its files tell: nothing is loaded."""

from __future__ import annotations

import functools
import logging
import mmap
import struct
import threading
from collections.abc import Mapping
from pathlib import Path

from dmr.chat.template import PromptTemplate
from dmr.errors import DmrError, InvalidRequest
from dmr.store.gguf import read_gguf_header
from dmr.store.gguf_config import describe_gguf
from dmr.store.store import ModelStore
from dmr.types import ModelRecord
from dmr.wire import EngineInfo

MAX_KNOWN = 1024  # models that are remembered
VOCABULARY_BYTES = 32 << 20  # at the front of a file, in which the vocabulary is looked for

_RANK_POOLING = "4"  # GGUF's number
_NO_POOLING = ("", "0")
_TEMPLATE_KEY = "tokenizer.chat_template"
_ENCODERS = {"clip.has_vision_encoder": "vision", "clip.has_audio_encoder": "audio"}
_MIDDLE_KEYS = ("tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id")
# By these llama.cpp finds the token in a vocabulary whose file does not name it.
_MIDDLE_TOKENS = (
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<\uff5cfim\u2581end\uff5c>",
    "<MID>",
    "\u2581<MID>",
    "<|code_middle|>",
)

logger = logging.getLogger("dmr.service")


class Capabilities:
    """Remembers what it has found: a model's id is a digest of all its files. Any thread."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._known: dict[str, tuple[str, ...]] = {}
        self._lock = threading.Lock()

    def of(self, record: ModelRecord) -> tuple[str, ...]:
        """Never raises: a model whose files cannot be read can do nothing."""
        found = self._known.get(record.id)
        if found is None:
            try:
                found = self._look(record)
            except DmrError as error:
                logger.warning("what %s can do is not known: %s", record.id, error.message)
                return ()
            with self._lock:
                self._known[record.id] = found
                if len(self._known) > MAX_KNOWN:
                    del self._known[next(iter(self._known))]
        return found

    def chat_template(self, record: ModelRecord) -> str:
        """The template that lies beside the weights, else the one in them.

        Raises:
            StoreError: the files are damaged.
        """
        override = self._store.chat_template(record.id)
        return self._metadata(record).get(_TEMPLATE_KEY, "") if override is None else override

    def _look(self, record: ModelRecord) -> tuple[str, ...]:
        metadata = self._metadata(record)
        architecture = metadata.get("general.architecture", record.config.architecture)
        pooling = metadata.get(f"{architecture}.pooling_type", "")
        has_classifier = f"{architecture}.classifier.output_labels" in metadata
        if pooling == _RANK_POOLING:
            return ("rerank",)
        if pooling not in _NO_POOLING:
            return ("embedding",)
        if metadata.get(f"{architecture}.attention.causal") == "false":
            return ("rerank",) if has_classifier else ("embedding",)
        found = ["completion"]
        template = record.defaults.template or self.chat_template(record)
        if template:
            found.append("tools")  # a template that knows none gets them all the same
            if _can_think(self.chat_template(record)):
                found.append("thinking")
        if self._fills_in(record, metadata):
            found.append("insert")
        if record.has_mmproj:
            found += self._senses(record)
        return tuple(found)

    def _senses(self, record: ModelRecord) -> list[str]:
        try:
            projector = self._store.files(record.id).mmproj
            metadata = read_gguf_header(projector).metadata if projector is not None else {}
        except DmrError as error:  # it can still write
            logger.warning("what the projector of %s can do is not known: %s", record.id, error.message)
            return []
        if not any(key in metadata for key in _ENCODERS):
            return ["vision"]  # of the time before there was anything else
        return [sense for key, sense in _ENCODERS.items() if metadata.get(key)]

    def _metadata(self, record: ModelRecord) -> Mapping[str, str]:
        if record.config.gguf:
            return record.config.gguf
        return _metadata_of(self._store.files(record.id).weights[0])

    def _fills_in(self, record: ModelRecord, metadata: Mapping[str, str]) -> bool:
        if any(key in metadata for key in _MIDDLE_KEYS):
            return True
        return _names_token(self._store.files(record.id).weights[0], _MIDDLE_TOKENS)


@functools.lru_cache(maxsize=64)
def _metadata_of(weights: Path) -> Mapping[str, str]:
    """Of models whose config says nothing of it; a blob's path tells its content."""
    return describe_gguf(read_gguf_header(weights), weights.stat().st_size).gguf


def check_template(template: str) -> None:
    """Raises InvalidRequest for a Jinja template that cannot be read."""
    if "{%" not in template:
        return
    try:
        PromptTemplate(EngineInfo("", 0, template, "", "", False))
    except InvalidRequest as error:
        raise InvalidRequest(f"The template cannot be read. {error.message}", param="template") from error


@functools.lru_cache(maxsize=256)
def _can_think(template: str) -> bool:
    """A template that cannot be read, or that breaks, does not think. Raises Unavailable, InternalError."""
    try:
        return PromptTemplate(EngineInfo("", 0, template, "", "", False)).supports_thinking
    except InvalidRequest:
        return False


def _names_token(weights: Path, tokens: tuple[str, ...]) -> bool:
    """Whether one of them is a string at the front of a GGUF file; each has its length before it."""
    strings = [struct.pack("<Q", len(text)) + text for text in (token.encode() for token in tokens)]
    try:
        with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return any(data.find(text, 0, VOCABULARY_BYTES) >= 0 for text in strings)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        logger.warning("%s cannot be read: %s", weights, error)
        return False
