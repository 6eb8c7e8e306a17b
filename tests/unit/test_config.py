from __future__ import annotations

import re
from pathlib import Path

import pytest

from dmr import config
from dmr.config import Settings, read_settings
from dmr.config.aliases import Alias
from dmr.config.outside import unknown_variables
from dmr.config.variables import FileName
from dmr.errors import InvalidRequest

SAMPLES: dict[type, tuple[str, object]] = {
    str: ("debug", "debug"),
    int: ("7", 7),
    float: ("1", 1.0),
    Path: ("folder/models", Path("folder/models")),
    bool: ("1", True),
    tuple: ("http://a.example, http://b.example", ("http://a.example", "http://b.example")),
    FileName: ("small.gguf", "small.gguf"),
    Alias: ("gpt-*=ai/qwen3", (Alias("gpt-*", "ai/qwen3"),)),
}


def test_nothing_set() -> None:
    expanded = Settings(models_path=Path("~/.docker/models").expanduser())
    assert read_settings({}) == expanded
    assert not str(expanded.models_path).startswith("~")


@pytest.mark.parametrize("variable", config.VARIABLES)
def test_each_variable_sets_its_field_and_no_other(variable: str) -> None:
    row = config.VARIABLES[variable]
    path, kind = row.field, row.kind
    sample, expected = (row.choices[-1], row.choices[-1]) if row.choices else SAMPLES[kind]
    if variable == "DMR_SPECULATION":  # its last choice needs another setting
        sample = expected = "ngram"
    if variable in ("DMR_FETCH_MEDIA", "DMR_PRIVATE_REGISTRIES"):  # hosts, not origins
        sample, expected = "b.example, a.example:8080", ("b.example", "a.example:8080")
    settings = read_settings({variable: sample})
    part, _, field = path.rpartition(".")
    holder = getattr(settings, part) if part else settings
    before = getattr(read_settings({}), part) if part else read_settings({})
    assert getattr(holder, field) == expected
    others = set(holder.__struct_fields__) - {field}
    assert all(getattr(holder, other) == getattr(before, other) for other in others)


def test_every_setting_can_be_set() -> None:
    fields = {path.rpartition(".")[2] for path, *_ in config.VARIABLES.values()}
    parts = (Settings, config.EngineSettings, config.RegistrySettings, config.TlsSettings)
    known = {field for part in parts for field in part.__struct_fields__}
    of_one_model = {"num_batch_threads", "thread_polling", "shares_prefixes", "pooling"}  # by its configuration
    of_one_model |= {"weights", "attention", "rope", "draft", "projector"}
    assert known - fields - of_one_model == {"engine", "registry", "tls", "upstreams"}


@pytest.mark.parametrize("text", ["9000", " 9000 ", '"9000"', "'9000'", "9000\n"])
def test_blanks_and_quotes_do_not_count(text: str) -> None:
    assert read_settings({"MODEL_RUNNER_PORT": text}).port == 9000


@pytest.mark.parametrize("text", ["", "  ", '""'])
def test_an_empty_value_is_none(text: str) -> None:
    assert read_settings({"MODEL_RUNNER_PORT": text, "DMR_HOST": text}) == read_settings({})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MODEL_RUNNER_PORT", "http"),
        ("MODEL_RUNNER_PORT", "1.5"),
        ("MODEL_RUNNER_PORT", "-1"),
        ("DMR_SPECULATION", "perhaps"),
        ("DMR_DRAFT_TOKENS", "0"),
        ("DMR_KEEP_ALIVE", "5m"),
        ("DMR_KEEP_ALIVE", "nan"),
        ("DMR_LOAD_TIMEOUT", "nan"),
        ("DMR_MAX_BODY_BYTES", "256MB"),
        ("DMR_MAX_SEQUENCES", "0"),
        ("LOG_LEVEL", "loud"),
        ("DMR_FETCH_MEDIA", "http://a.example"),
        ("DMR_PRIVATE_REGISTRIES", "https://a.example"),
        ("DMR_ALIASES", "gpt-*"),
        ("DMR_ALIASES", "gpt-4=ai/x,gpt-4=ai/y"),
        ("DMR_ALIASES", "a=b,b=a"),
    ],
)
def test_a_wrong_value_names_its_variable(variable: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_settings({variable: text})
    assert caught.value.param == variable
    assert variable in caught.value.message
    assert text in caught.value.message


def test_a_draft_needs_a_model() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_settings({"DMR_SPECULATION": "draft"})
    assert caught.value.param == "DMR_DRAFT_MODEL"
    assert read_settings({"DMR_SPECULATION": "draft", "DMR_DRAFT_MODEL": "small.gguf"}).engine.speculation == "draft"


def test_a_home_folder_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert read_settings({"MODELS_PATH": "~/models"}).models_path == Path("/somewhere/models")
    assert read_settings({"DMR_DRAFT_MODEL": "~/small.gguf"}).engine.draft_model == "/somewhere/small.gguf"


def test_a_model_may_stay_for_ever() -> None:
    assert read_settings({"DMR_KEEP_ALIVE": "-1"}).keep_alive == -1.0
    assert read_settings({"DMR_KEEP_ALIVE": "0"}).keep_alive == 0.0


def test_variables_that_look_like_ours_and_are_none_are_told() -> None:
    said = {"DMR_THREAD": "1", "DMR_THREADS": "2", "DMR_API_KEY": "x", "PATH": "/bin", "MODEL_RUNNER_PROT": "1"}
    of_kubernetes = {
        "DMR_SERVICE_HOST": "10.0.0.1",
        "DMR_PORT": "tcp://10.0.0.1:80",
        "DMR_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert unknown_variables({**said, **of_kubernetes}) == ["DMR_THREAD"]
    assert unknown_variables(["DMR_OFFICE_KEY", "DMR_OFFICE_KYE"], ["DMR_OFFICE_KEY", ""]) == ["DMR_OFFICE_KYE"]


def test_none_that_the_code_reads_is_told() -> None:
    root = Path(__file__).parents[2]
    files = [file for folder in ("dmr", "server") for file in (root / folder).rglob("*.py")]
    read = {name for file in files for name in re.findall(r'"(DMR_[A-Z_]+)"', file.read_text())}
    assert len(read) > 40
    assert unknown_variables(dict.fromkeys(read, "1")) == []
