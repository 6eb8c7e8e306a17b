"""A prompt or an input in its four forms: text, list of texts, token ids, list of token ids."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from dmr.errors import InvalidRequest
from dmr.types import Prompt
from dmr_server.fields import Count, checked

MAX_PROMPTS = 2048

TokenIds = Annotated[tuple[Count, ...], Meta(min_length=1)]


def read_prompts(value: Any, param: str) -> tuple[Prompt, ...]:
    """Raises InvalidRequest for none, too many, or anything else than the four forms."""
    if isinstance(value, str):
        return (value,)
    listed = checked(value, list[Any], param)
    if not listed or (len(listed) > MAX_PROMPTS and not isinstance(listed[0], int)):
        raise InvalidRequest(f"Invalid value for '{param}': expected 1 to {MAX_PROMPTS} prompts.", param=param)
    if isinstance(listed[0], str):
        return checked(listed, tuple[str, ...], param)
    if isinstance(listed[0], list):
        return checked(listed, tuple[TokenIds, ...], param)
    return (checked(listed, TokenIds, param),)
