from __future__ import annotations

from pathlib import Path

import pytest

from versus.__main__ import chosen, main, read_options, read_plan
from versus.rows import ROWS


def test_the_short_set_leaves_the_long_rows_out() -> None:
    assert set(ROWS) - set(chosen(read_options([]))) == {"3b"}
    assert chosen(read_options(["--full"])) == list(ROWS)
    assert chosen(read_options(["--rows", "6b,2"])) == ["6b", "2"]


def test_names_that_there_are_not_end_it() -> None:
    with pytest.raises(SystemExit, match="There is no row 11, x; there are 1, 2"):
        chosen(read_options(["--rows", "11,2,x"]))
    with pytest.raises(SystemExit, match="no setting of the peer fast"):
        read_plan(read_options(["--peers", "fast"]))


def test_what_is_missing_is_told_with_what_brings_it(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    with pytest.raises(SystemExit, match="'make model' brings it"):
        read_plan(read_options(["--gguf", str(model)]))
    model.touch()
    options = ["--gguf", str(model), "--llama-server", str(tmp_path / "none")]
    with pytest.raises(SystemExit, match="'make bench-peer' brings it"):
        read_plan(read_options(options))
    with pytest.raises(SystemExit, match="nothing to measure"):
        read_plan(read_options([*options, "--peers", "", "--without-dmr"]))
    plan = read_plan(read_options([*options, "--peers", ""]))
    assert (plan.settings, plan.with_dmr, plan.num_pairs) == ((), True, None)
    assert read_plan(read_options([*options, "--peers", "", "--full"])).num_pairs == 5
    tried = read_plan(
        read_options([*options, "--peers", "", "--dmr-set", "DMR_THREADS=1", "--dmr-set", "DMR_HOST_CACHE="])
    )
    assert tried.dmr_settings == {"DMR_THREADS": "1", "DMR_HOST_CACHE": ""}
    with pytest.raises(SystemExit, match="at least 1"):
        read_plan(read_options([*options, "--peers", "", "--pairs", "0"]))
    with pytest.raises(SystemExit, match="NAME=VALUE"):
        read_plan(read_options([*options, "--peers", "", "--dmr-set", "DMR_A"]))
    with pytest.raises(SystemExit, match="no setting DMR_THREAD"):
        read_plan(read_options([*options, "--peers", "", "--dmr-set", "DMR_THREAD=1"]))


def test_a_report_of_nothing_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["versus", "--report-only", "--out", str(tmp_path / "out")])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    main()
    assert capsys.readouterr().out == "\n"
    assert (tmp_path / "out" / "table.md").read_text().startswith("# dmr beside llama-server")
