"""Measure dmr beside llama-server.

    python -m benchmarks.versus [--full] [--rows 2,3,6] [--pairs 3] [--peers defaults,streams,unified] [--out DIR]

`make bench` and `make bench-full` build what this needs and run the short and the long set. Each row is kept as a JSON
file in DIR as soon as it is measured; the table is made of all files there, so rows can be measured one at a time.
docs/benchmarks.md says what the rows are.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from dmr.config.outside import unknown_variables

from .figures import RoundFailed
from .measuring import Plan, measure
from .peer import SETTINGS
from .plot import draw
from .processes import DidNotStart
from .report import figure_table, markdown_report, plain, terminal_report
from .results import load_all, save
from .row import DEFAULTS, STREAMS, UNIFIED
from .rows import ROWS
from .text_check import check_texts

FULL_PAIRS = 5


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.versus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", help=f"some of {','.join(ROWS)}; default: the short set")
    parser.add_argument("--full", action="store_true", help=f"every row, {FULL_PAIRS} pairs of rounds")
    parser.add_argument("--pairs", type=int, help="of rounds; default: what the short set has of each row")
    parser.add_argument("--peers", default=",".join((DEFAULTS, STREAMS, UNIFIED)), help=f"of {','.join(SETTINGS)}")
    parser.add_argument("--without-dmr", action="store_true", help="the peer's settings among themselves")
    parser.add_argument("--dmr-set", action="append", default=[], metavar="NAME=VALUE", help="try a setting of dmr")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tmp"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the peer; default: all cores")
    parser.add_argument("--llama-server", type=Path, default=Path("build/peer/bin/llama-server"))
    parser.add_argument("--gguf", type=Path, default=Path("models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    embedding = os.environ.get("DMR_BENCH_EMBED_GGUF")
    parser.add_argument("--embed-gguf", type=Path, default=Path(embedding) if embedding else None, help="for row 7")
    parser.add_argument("--report-only", action="store_true", help="make the table of what is in DIR")
    return parser.parse_args(arguments)


def chosen(options: argparse.Namespace) -> list[str]:
    """Names of rows. Exits with a message for names that there are not."""
    if options.rows is None:
        return [name for name, row in ROWS.items() if options.full or row.short_pairs]
    return _known(options.rows, list(ROWS), "row")


def _known(text: str, names: list[str], what: str) -> list[str]:
    given = [name for name in text.split(",") if name]
    if unknown := [name for name in given if name not in names]:
        raise SystemExit(f"There is no {what} {', '.join(unknown)}; there are {', '.join(names)}.")
    return given


def read_plan(options: argparse.Namespace) -> Plan:
    """Exits with a message when something is missing."""
    settings = tuple(_known(options.peers, list(SETTINGS), "setting of the peer"))
    needed = [(options.gguf, "make model"), *([(options.llama_server, "make bench-peer")] if settings else [])]
    for path, command in needed:
        if not path.is_file():
            raise SystemExit(f"{path} is not there; '{command}' brings it.")
    if not settings and options.without_dmr:
        raise SystemExit("There is nothing to measure: --peers is empty, and dmr is left out.")
    if options.pairs is not None and options.pairs < 1:
        raise SystemExit("--pairs must be at least 1.")
    pairs = options.pairs or (FULL_PAIRS if options.full else None)
    return Plan(
        options.llama_server.absolute(),
        options.gguf,
        options.embed_gguf,
        settings,
        not options.without_dmr,
        pairs,
        options.threads,
        dict(_setting(text) for text in options.dmr_set),
    )


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise SystemExit(f"--dmr-set {text!r} is not of the form NAME=VALUE.")
    if unknown_variables([name]):
        raise SystemExit(f"--dmr-set: dmr has no setting {name}.")
    return name, value


def report(folder: Path) -> None:
    """Table and picture of everything that is in a folder."""
    results = load_all(folder)
    plots = []
    if "sweep" in results:
        try:
            plots.append(draw(results["sweep"], folder))
        except ImportError:
            say("No picture is drawn: matplotlib is not installed (pip install 'dmr[bench]').")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(markdown_report(ROWS, results, plots), encoding="utf-8")
    say(terminal_report(ROWS, results))


def say(line: str) -> None:
    print(line, flush=True)


def run(options: argparse.Namespace) -> None:
    plan = read_plan(options)
    began = time.monotonic()
    for name in chosen(options):
        row = ROWS[name]
        say(f"row {name}: {row.title}")
        try:
            result = measure(row, plan, say) if row.run else check_texts(plan, say)
        except (RoundFailed, DidNotStart, ValueError) as error:
            say(f"  left out: {error}")
            continue
        save(result, options.out)
        say(plain(figure_table(row, result)))
    say(f"\n{time.monotonic() - began:.0f} s\n")


def main() -> None:
    options = read_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    if not options.report_only:
        try:
            run(options)
        except KeyboardInterrupt:
            sys.exit("interrupted; what was measured until now is kept")
    report(options.out)


if __name__ == "__main__":
    main()
