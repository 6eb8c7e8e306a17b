"""What all Anthropic answers have in common."""

from __future__ import annotations

import msgspec

from dmr.errors import DmrError
from dmr_server.errors import row_of


class AnthropicDialect:
    """Errors as JSON, in Anthropic's shape."""

    media_type = "application/json"

    def error(self, error: DmrError, request_id: str) -> tuple[int, bytes]:
        return row_of(error).status, msgspec.json.encode({"error": error.message})
