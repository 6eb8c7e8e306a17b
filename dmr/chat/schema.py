"""JSON Schemas of requests: what can be enforced while an answer grows, and what an answer breaks when it is there."""

from __future__ import annotations

import functools
import itertools
import json
from typing import Any

import msgspec

from dmr.chat.schema_document import Document, SchemaError
from dmr.chat.schema_grammar import Finding, GrammarSchema
from dmr.chat.schema_reading import SchemaReader
from dmr.chat.schema_validator import TooMuchWork, Validator
from dmr.errors import InvalidRequest

MAX_VIOLATIONS = 20  # that are looked for in one answer
MAX_CACHED_LENGTH = 1 << 16  # characters of a schema that is remembered


class Schema:
    """Immutable; any thread."""

    def __init__(self, text: str) -> None:
        """Raises SchemaError, and DecodeError for what is no JSON."""
        root = msgspec.json.decode(text)
        reader = SchemaReader()
        self._document = Document(root, reader.clean)
        if self._document.root is False:
            raise SchemaError("nothing matches it")
        grammar = GrammarSchema(self._document)
        self.unenforceable: tuple[Finding, ...] = grammar.findings
        is_as_given = grammar.is_as_given and not reader.is_reworded and isinstance(root, dict)
        # What llama.cpp's converter is to be given: it enforces all of it.
        self.for_grammar = text if is_as_given else msgspec.json.encode(grammar.schema).decode()

    def violations(self, text: str, is_cut: bool = False) -> list[str]:
        """What an answer breaks: sentences, each with its place. An answer that is cut off may be no JSON."""
        try:
            # Not msgspec: the grammar lets a model write numbers beyond all floats, which are JSON all the same.
            value: Any = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            return [] if is_cut else [f"$: is no JSON: {error}"]
        found: list[str] = []
        try:
            for violation in itertools.islice(Validator(self._document).violations(value), MAX_VIOLATIONS):
                found.append(str(violation))
        except TooMuchWork:
            found.append("$: not checked to its end: schema and answer are too large")
        except SchemaError as error:
            found.append(f"$: not checked to its end: {error}")
        return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no value")


def read_schema(text: str, param: str) -> Schema:
    """Raises InvalidRequest, naming `param`: the text is no JSON Schema, or one that is too large."""
    try:
        return _cached(text) if len(text) <= MAX_CACHED_LENGTH else Schema(text)
    except (SchemaError, msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise InvalidRequest(f"The JSON Schema cannot be understood: {error}.", param=param) from error


def unenforceable(text: str) -> list[Finding]:
    """Path and keyword of all that the grammar does not enforce. Raises InvalidRequest."""
    return list(read_schema(text, "response_format").unenforceable)


_cached = functools.lru_cache(maxsize=256)(Schema)
