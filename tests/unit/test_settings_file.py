"""The settings file: what it sets, what goes before it, and what is said when it is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmr.config import VARIABLES, UpstreamEngine, read_settings
from dmr.config.aliases import Alias
from dmr.config.file import settings_path
from dmr.config.keeping import keep_file
from dmr.config.reading import read_effective
from dmr.errors import InvalidRequest

SAMPLES = {
    "str": '"ngram"',
    "int": "7",
    "float": "0.5",
    "bool": "true",
    "tuple": '["http://a.example"]',
    "Path": '"/x"',
}


def file_of(folder: Path, text: str) -> dict[str, str]:
    """The environment that names a file of this text."""
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return {"DMR_CONFIG": str(path)}


def refusal(folder: Path, text: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read_settings(file_of(folder, text))
    return caught.value


def test_a_file_sets_what_it_names(tmp_path: Path) -> None:
    settings = read_settings(
        file_of(
            tmp_path,
            """
            [server]
            port = 8080
            keep_alive = 60      # a whole number will do for seconds
            models_path = "/srv/models"

            [engine]
            context_size = 4096
            queue_share = 0.25
            draft_model = "/srv/small.gguf"

            [registry]
            insecure = true
            mirrors = ["mirror.example"]
            """,
        )
    )
    assert (settings.port, settings.keep_alive, settings.models_path) == (8080, 60.0, Path("/srv/models"))
    assert type(settings.keep_alive) is float
    assert (settings.engine.context_size, settings.engine.queue_share) == (4096, 0.25)
    assert settings.engine.draft_model == "/srv/small.gguf"
    assert (settings.registry.insecure, settings.registry.mirrors) == (True, ("mirror.example",))
    assert settings.engine.max_num_seqs == read_settings({}).engine.max_num_seqs


@pytest.mark.parametrize("name", [name for name in VARIABLES if name != "DMR_ALIASES"])
def test_each_setting_has_a_key(name: str, tmp_path: Path) -> None:
    row = VARIABLES[name]
    kind = "Path" if row.kind.__name__ == "FileName" else row.kind.__name__
    value = f'"{row.choices[0]}"' if row.choices else SAMPLES[kind]
    if kind == "float" and row.least >= 1:
        value = "7.5"
    if name in ("DMR_FETCH_MEDIA", "DMR_PRIVATE_REGISTRIES"):
        value = '["files.example"]'
    changed = read_settings(file_of(tmp_path, f"[{row.section}]\n{row.key} = {value}\n"))
    variable = value.strip('[]"')
    assert changed == read_settings({name: variable})


def test_a_variable_goes_before_the_file(tmp_path: Path) -> None:
    environ = file_of(tmp_path, "[server]\nport = 8080\nhost = '0.0.0.0'\n")
    assert read_settings({**environ, "MODEL_RUNNER_PORT": "9090"}).port == 9090
    assert read_settings({**environ, "MODEL_RUNNER_PORT": ""}).port == 8080
    assert read_settings({**environ, "MODEL_RUNNER_PORT": "9090"}).host == "0.0.0.0"


def test_who_has_set_what_is_known(tmp_path: Path) -> None:
    environ = {**file_of(tmp_path, "[server]\nport = 8080\n\nhost = '0.0.0.0'\n"), "MODEL_RUNNER_PORT": "1"}
    effective = read_effective(environ)
    assert effective.variables == {"port": "MODEL_RUNNER_PORT"}
    assert effective.file is not None
    assert set(effective.file.values) == {"port", "host"}
    assert effective.file.told("host") == f"{tmp_path}/config.toml:4"


def test_where_the_file_is(tmp_path: Path) -> None:
    assert settings_path({}) is None
    assert settings_path({"HOME": "/h"}) == Path("/h/.config/dmr/config.toml")
    assert settings_path({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}) == Path("/c/dmr/config.toml")
    assert settings_path({"HOME": "/h", "XDG_CONFIG_HOME": "relative"}) == Path("/h/.config/dmr/config.toml")
    assert settings_path({"HOME": "/h", "XDG_CONFIG_HOME": "/c", "DMR_CONFIG": "/f.toml"}) == Path("/f.toml")
    folder = tmp_path / "dmr"
    folder.mkdir()
    (folder / "config.toml").write_text("[server]\nport = 8081\n")
    assert read_settings({"XDG_CONFIG_HOME": str(tmp_path)}).port == 8081


def test_no_file_is_no_fault_unless_it_was_named(tmp_path: Path) -> None:
    assert read_settings({"HOME": str(tmp_path)}) == read_settings({})
    with pytest.raises(InvalidRequest, match="no settings file") as caught:
        read_settings({"DMR_CONFIG": str(tmp_path / "missing.toml")})
    assert caught.value.param == "DMR_CONFIG"
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_settings({"DMR_CONFIG": str(tmp_path)})
    assert read_settings({"DMR_CONFIG": os.devnull}) == read_settings({})


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[server]\n\nprot = 1\n", 3, ["[server] prot", "perhaps 'port'"]),
        ("[sever]\nport = 1\n", 1, ["sever", "perhaps 'server'"]),
        ("port = 1\n", 1, ["port", "no table"]),
        ("server = 1\n", 1, ["write [server] above"]),
        ("[server]\nport = '80'\n", 2, ["[server] port = '80'", "whole number"]),
        ("[server]\nport = 80.5\n", 2, ["whole number"]),
        ("[server]\nport = true\n", 2, ["whole number"]),
        ("[server]\nport = 70000\n", 2, ["70000", "out of range from 0 to 65535"]),
        ("[server]\nkeep_alive = nan\n", 2, ["out of range"]),
        ("[server]\nkeep_alive = '5m'\n", 2, ["a number"]),
        ("[server]\nlog_level = 'loud'\n", 2, ["none of debug"]),
        ("[server]\nmodels_path = 'models'\n", 2, ["begins with '/' or '~/'"]),
        ("[registry]\nmirrors = 'a.example'\n", 2, ["list of texts"]),
        ("[registry]\nmirrors = [1]\n", 2, ["list of texts"]),
        ("[registry]\ninsecure = 1\n", 2, ["true or false"]),
        ("[aliases]\n'gpt-*' = 4\n", 2, ["[aliases] gpt-* = 4", "quotes"]),
        ("[aliases]\na = 'b'\n'b' = 'a'\n", 2, ["circle"]),
        ("[aliases]\na = 'b'\n\n'A:latest' = 'c'\n", 4, ["same name"]),
        ("[engines.far]\nurl = 'http://h:1'\nkey = 'x'\n", 3, ["[engines.far] key", "no setting of an engine"]),
        ("[engines.far]\ntimeout = 5\n", 1, ["url"]),
        ("[engines.far]\nurl = 'ftp://h'\n", 2, ["ftp://h"]),
        ("[engines.far]\nurl = 5\n", 1, ["url"]),
        ("[engines]\nfar = 'http://h'\n", 2, ["write [engines.far] above"]),
        ("[engines.v1]\nurl = 'http://h'\n", 1, ["engines.v1"]),
        ("[server]\nx = 'gr\u00fc\u00df'\n[engine.deep]\n", 2, ["[server] x"]),
    ],
)
def test_a_wrong_file_is_told_with_its_line(text: str, line: int, words: list[str], tmp_path: Path) -> None:
    error = refusal(tmp_path, text)
    assert error.message.startswith(f"{tmp_path}/config.toml:{line}: ")
    assert [word for word in words if word not in error.message] == [], error.message


@pytest.mark.parametrize("text", ["[server\n", "port == 1", "[server]\nport = 1\nport = 2\n", "x = " + "[" * 5000])
def test_what_is_no_toml_is_told(text: str, tmp_path: Path) -> None:
    error = refusal(tmp_path, text)
    assert "is not TOML" in error.message
    assert str(tmp_path / "config.toml") in error.message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"[server]\nhost = '\xff'\n")
    with pytest.raises(InvalidRequest, match=r"config\.toml:2: this is not UTF-8"):
        read_settings({"DMR_CONFIG": str(tmp_path / "config.toml")})
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbf[server]\nport = 1\n")  # as some editors write it
    assert read_settings({"DMR_CONFIG": str(tmp_path / "config.toml")}).port == 1
    (tmp_path / "config.toml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(InvalidRequest, match="larger"):
        read_settings({"DMR_CONFIG": str(tmp_path / "config.toml")})


def test_a_draft_of_the_file_needs_a_model(tmp_path: Path) -> None:
    error = refusal(tmp_path, "[engine]\nspeculation = 'draft'\n")
    assert error.message.startswith(f"{tmp_path}/config.toml:2: speculation = draft needs a model")


def test_aliases(tmp_path: Path) -> None:
    environ = file_of(tmp_path, "[aliases]\n'gpt-*' = 'ai/qwen3'\n\"claude-haiku-4.5\" = 'ai/smollm2'\n")
    assert read_settings(environ).aliases == (
        Alias("claude-haiku-4.5", "ai/smollm2"),
        Alias("gpt-*", "ai/qwen3"),
    )
    assert read_settings({**environ, "DMR_ALIASES": "x=ai/y"}).aliases == (Alias("x", "ai/y"),)


def test_engines(tmp_path: Path) -> None:
    text = """
    [engines.cluster]
    url = "http://10.0.0.5:8000/v1"
    api_key_env = "CLUSTER_KEY"
    models = ["llama-70b"]
    timeout = 60
    """
    assert read_settings(file_of(tmp_path, text)).upstreams == (
        UpstreamEngine("cluster", "http://10.0.0.5:8000/v1", "CLUSTER_KEY", ("llama-70b",), timeout=60.0),
    )


def test_processes_of_one_server_keep_one_file(tmp_path: Path) -> None:
    environ = file_of(tmp_path, "[server]\nport = 8080  # gr\u00fc\u00df\n")
    copy = keep_file(read_effective(environ).file, tmp_path / "run" / "time", environ)
    (tmp_path / "config.toml").write_text("[server\n")
    assert copy is not None
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    assert read_settings(environ).port == 8080


def test_a_file_that_appears_later_is_not_read(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert keep_file(read_effective(environ).file, tmp_path / "runtime", environ) is None
    (tmp_path / "dmr").mkdir()
    (tmp_path / "dmr" / "config.toml").write_text("[server\n")
    assert read_settings(environ) == read_settings({})
