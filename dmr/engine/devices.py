"""`python -m dmr.engine.devices`: the kinds of devices that this build computes on, one on a line."""

from __future__ import annotations

from dmr import _core


def main() -> None:
    for device in _core.devices():
        print(device["kind"])  # noqa: T201 - the answer of this program


if __name__ == "__main__":
    main()
