"""What all Ollama answers have in common: how errors, times and durations are written."""

from __future__ import annotations

from datetime import datetime, timezone

import msgspec

from dmr.errors import ContextLengthExceeded, DmrError, ModelNotFound, Overloaded
from dmr_server.errors import row_of

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
NANOSECONDS = 1_000_000_000  # of a second
VERSION = "0.33.0"  # of the API that is spoken here: clients check it for what they may ask
FOREVER = 292 * 365 * 86400  # seconds; where Go's longest duration ends

PROMPT_TOO_LONG = "the prompt is longer than the context length currently available to the model"
INPUT_TOO_LONG = "the input length exceeds the context length"


class OllamaDialect:
    """Errors as JSON, in Ollama's shape and, where clients look for them, in its words.

    `hint` follows the text for an unknown model, `too_long` is what a text over the context is told.
    """

    media_type = JSON

    def __init__(self, hint: str = "", too_long: str = PROMPT_TOO_LONG) -> None:
        self._hint = hint
        self._too_long = too_long

    def error(self, error: DmrError, request_id: str) -> tuple[int, bytes]:
        return row_of(error).status, msgspec.json.encode({"error": self._text(error)})

    def _text(self, error: DmrError) -> str:
        if isinstance(error, ModelNotFound) and self._hint:
            return f"{message_of(error)}, {self._hint}"
        return message_of(error, self._too_long)


def message_of(error: DmrError, too_long: str = PROMPT_TOO_LONG) -> str:
    """One line about an error."""
    if isinstance(error, ModelNotFound):
        # An error that crossed a process border knows its text only.
        reference = getattr(error, "reference", None)
        return error.message if reference is None else f"model '{reference}' not found"
    if isinstance(error, ContextLengthExceeded):
        return f"{too_long}{_numbers(error)}"
    if isinstance(error, Overloaded):
        return "server busy, please try again.  maximum pending requests exceeded"
    return error.message


def _numbers(error: ContextLengthExceeded) -> str:
    num_tokens, size = getattr(error, "num_prompt_tokens", None), getattr(error, "context_size", None)
    if num_tokens is None or size is None:
        return f": {error.message}"
    return f" ({num_tokens} tokens, the context holds {size}); shorten it or ask for a larger num_ctx"


def timestamp(seconds: float) -> str:
    """Unix seconds as RFC 3339 in UTC, down to microseconds: a float holds no more. Zeros at the end are left out."""
    whole, fraction = divmod(round(seconds * 1_000_000), 1_000_000)
    text = datetime.fromtimestamp(whole, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f".{fraction:06d}".rstrip("0").rstrip(".")
    return f"{text}{digits}Z"


def nanoseconds(seconds: float) -> int:
    """A duration as it is sent. Never 0: clients divide by it, and a 0 is left out by Ollama itself."""
    return max(1, round(seconds * NANOSECONDS))
