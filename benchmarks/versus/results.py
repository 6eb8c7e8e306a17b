"""What was measured, as it is kept: one JSON file for each row, which says everything about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Union

import msgspec

from .machine import Machine, Versions


class Round(msgspec.Struct, frozen=True):
    """One side, once."""

    side: str
    number: int  # of the pair that it is part of
    seed: str
    load_average: float  # before it
    seconds: float
    figures: dict[str, float] = {}
    failure: Union[str, None] = None
    busy: float = 0.0  # part of all CPU time that anything took meanwhile
    stolen: float = 0.0  # part of all CPU time that the machine beneath gave to others
    idle_cores: float = 0.0  # what the other servers took although nobody asked them


_FLOATS = ("load_average", "seconds", "busy", "stolen", "idle_cores")


class RowResult(msgspec.Struct):
    row: str
    title: str
    date: str
    machine: Machine
    versions: Versions
    settings: dict[str, list[str]]  # of each side: flags of the peer, variables of dmr
    rounds: list[Round] = []
    notes: list[str] = []

    def of(self, side: str) -> list[Round]:
        """Rounds that have figures."""
        return [round for round in self.rounds if round.side == side and round.failure is None]

    def failures(self, side: str) -> list[str]:
        return [round.failure for round in self.rounds if round.side == side and round.failure is not None]

    @property
    def sides(self) -> list[str]:
        return list(self.settings)


def save(result: RowResult, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"row-{result.row}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(_rounded(result)), indent=1) + b"\n")
    return path


def load_all(folder: Path) -> dict[str, RowResult]:
    """By row. Raises msgspec.DecodeError for files that are something else."""
    found = (msgspec.json.decode(path.read_bytes(), type=RowResult) for path in sorted(folder.glob("row-*.json")))
    return {result.row: result for result in found}


def _rounded(result: RowResult) -> RowResult:
    """Six digits are more than any figure means, and keep the files small."""

    def short(value: float) -> float:
        return float(f"{value:.6g}")

    rounds = []
    for round in result.rounds:
        figures = {name: short(value) for name, value in round.figures.items()}
        plain = {name: short(getattr(round, name)) for name in _FLOATS}
        rounds.append(msgspec.structs.replace(round, figures=figures, **plain))
    return msgspec.structs.replace(result, rounds=rounds)
