"""Puts the library that `DMR_CORE` names in the place of dmr._core, in this process and all that it starts."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import ModuleType

_PATH = os.environ.get("DMR_CORE", "")


class _CoreFinder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "dmr._core":
            return None
        return importlib.util.spec_from_file_location(name, _PATH, loader=ExtensionFileLoader(name, _PATH))


if _PATH:
    sys.meta_path.insert(0, _CoreFinder)  # type: ignore[arg-type]  # a class with the method is enough
