"""What is said about a name that no model has."""

from __future__ import annotations

from dmr.errors import ModelNotFound


def no_such_model(name: str) -> ModelNotFound:
    """Begins as upstream's does."""
    error = ModelNotFound(name)
    error.message = f"no such model: {name} (`dmr list` shows those that there are, `dmr pull` brings others)"
    return error
