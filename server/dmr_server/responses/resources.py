"""The Responses resources: what Falcon calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmr.config import Settings
from dmr_server.generation import Stamps

if TYPE_CHECKING:
    from dmr.service import Service


def routes(service: Service, settings: Settings, stamps: Stamps) -> dict[str, object]:
    """Every Responses route."""
    return {}
