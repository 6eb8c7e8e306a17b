"""All rows of the table, in its order."""

from __future__ import annotations

from collections.abc import Mapping

from . import embedding_row, fault_rows, latency_rows, prefix_rows, text_check, throughput_rows
from .row import Row

_ORDER = ("1", "2", "3", "3b", "4", "5", "6", "6b", "7", "8", "9", "10", "sweep", text_check.ROW.name)
_MODULES = (throughput_rows, prefix_rows, latency_rows, embedding_row, fault_rows)
_FOUND = {row.name: row for row in (*(row for module in _MODULES for row in module.ROWS), text_check.ROW)}
ROWS: Mapping[str, Row] = {name: _FOUND[name] for name in _ORDER}
