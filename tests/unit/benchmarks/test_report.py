from __future__ import annotations

from pathlib import Path

import pytest
from unit.benchmarks.made_up import made_up

from versus.report import figure_table, markdown, markdown_report, plain, terminal_report
from versus.results import load_all, save
from versus.row import BEST, DEFAULTS, STREAMS, Metric, Row, Setup, Target

WAIT = Metric("wait", "TTFT p95", "s", False, 2)
ROW = Row("0", "made up", Setup(1), None, (WAIT,), (Target("wait", DEFAULTS, 0.5), Target("wait", BEST, 1 / 3)))
RESULT = made_up(
    {DEFAULTS: [{"wait": 4}, {"wait": 8}], "dmr": [{"wait": 1}, {"wait": 6}], STREAMS: ["lost | gone", "lost | gone"]}
)


def test_each_target_has_a_line_that_says_what_became_of_it() -> None:
    _, first, second = terminal_report({"0": ROW}, {"0": RESULT}).splitlines()
    assert (
        first.split("  ")
        == ["0 ", "TTFT p95, s", "3.50", "6.00 ", " ", "defaults", "0.50 (0.25 to 0.75)", "≤ 0.5x ", "yes"]
        or first
    )
    assert " ".join(first.split()) == "0 TTFT p95, s 3.50 6.00 defaults 0.50 (0.25 to 0.75) ≤ 0.5x yes"
    assert " ".join(second.split()) == "0 TTFT p95, s 3.50 - best: - - ≤ 0.333x ?"


def test_figures_of_all_sides_stand_beside_each_other() -> None:
    head, wait, rounds = figure_table(ROW, RESULT)
    assert head == ("figure", "unit", "defaults", "dmr", "streams")
    assert wait == ("TTFT p95", "s", "6.00", "3.50", "-")
    assert rounds[2:] == ("2 of 2", "2 of 2", "0 of 2")


def test_the_page_tells_settings_failures_and_where_it_was_measured() -> None:
    page = markdown_report({"0": ROW}, {"0": RESULT}, ["plot.png"])
    assert "dmr abcdef012, llama.cpp 0c1e57098; a processor, 2 cores, 24.0 GiB, Linux 6; 2026-01-02" in page
    assert page.count("- streams: lost | gone") == 1
    assert "- dmr: `its defaults`" in page
    assert "![plot.png](plot.png)" in page


def test_rows_of_different_commits_are_told_apart() -> None:
    other = made_up({"dmr": [{"wait": 1}]}, row="1")
    other.versions = type(other.versions)("fedcba987", "0c1e57098")
    page = markdown_report({"0": ROW, "1": ROW._replace(name="1")}, {"0": RESULT, "1": other})
    assert "- rows 0: dmr abcdef012" in page
    assert "- rows 1: dmr fedcba987" in page


def test_tables_are_aligned_for_terminals_and_escaped_for_markdown() -> None:
    lines = [("a", "b"), ("long|er", "c")]
    assert plain(lines) == "a        b\nlong|er  c"
    assert markdown(lines) == "| a | b |\n| --- | --- |\n| long\\|er | c |"


def test_results_are_kept_and_found_again(tmp_path: Path) -> None:
    result = made_up({"dmr": [{"wait": 1.23456789}, "it broke"]}, row="6b")
    assert save(result, tmp_path / "out").name == "row-6b.json"
    (found,) = load_all(tmp_path / "out").values()
    assert found.of("dmr")[0].figures == {"wait": pytest.approx(1.23457)}
    assert (found.failures("dmr"), found.row, found.versions) == (["it broke"], "6b", result.versions)
