"""A server that is not this one: of it no more is known than its chat and its list of models."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from dmr.cli.address import parse_address
from dmr.cli.server_api import ServerApi
from dmr.cli.tls import read_tls
from dmr.errors import Unsupported

T = TypeVar("T")


class OtherServer(ServerApi):
    """`url` is what stands before `/chat/completions` and `/models`; a key comes from the variable that has it."""

    chat_path = "/chat/completions"
    models_path = "/models"
    can_pull = False

    def __init__(self, url: str) -> None:
        super().__init__(parse_address(url), read_tls()[1])
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if key:
            self.headers["Authorization"] = f"Bearer {key}"

    def serves(self, name: str) -> bool:
        return True  # the first answer tells

    def preload(self, model: str) -> None:
        """Nothing: others load when they like."""

    def get_model(self, name: str, kind: type[T], *, remote: bool = False) -> T:
        raise Unsupported("Only dmr's own server tells what a model is.")

    def configure(self, model: str, settings: Any) -> None:
        raise Unsupported("Only dmr's own server can be told how to load a model.")
