from __future__ import annotations

from versus.dmr_server import dmr_environ
from versus.peer import PASSIVE, SHORT_BATCHES, peer_environ, peer_flags
from versus.row import DEFAULTS, STREAMS, UNIFIED, Setup


def text(setting: str, setup: Setup) -> str:
    return " ".join(peer_flags(setting, setup, 2))


def test_the_defaults_are_llama_servers_own() -> None:
    assert text(DEFAULTS, Setup(8)) == "-t 2 --metrics"
    assert text(DEFAULTS, Setup(8, embeds=True)) == "-t 2 --metrics --embeddings"


def test_the_best_flags_give_each_sequence_its_context() -> None:
    assert text(STREAMS, Setup(8, 512)) == (
        "-t 2 --metrics -np 8 -c 4096 -fa on -b 2048 -ub 512 -bs --threads-http 16 --no-cache-idle-slots "
        "--no-kv-unified"
    )
    assert text(UNIFIED, Setup(8, 512)) == text(STREAMS, Setup(8, 512)).replace("--no-kv-unified", "-kvu")
    assert "-b 512 -ub 512" in text(SHORT_BATCHES, Setup(8))


def test_scarce_memory_is_as_scarce_for_everybody() -> None:
    setup = Setup(4, 512, context=1024)
    assert "-c 1024" in text(DEFAULTS, setup)
    assert "-c 1024" in text(STREAMS, setup)
    assert dmr_environ(setup, {}) == {"DMR_CONTEXT_SIZE": "1024"}
    assert dmr_environ(Setup(4), {}) == {}


def test_an_encoder_takes_its_sequences_in_one_batch() -> None:
    assert "-b 2048 -ub 2048" in text(STREAMS, Setup(64, 256, embeds=True))


def test_the_passive_setting_is_in_the_environment() -> None:
    assert text(PASSIVE, Setup(8)) == text(DEFAULTS, Setup(8))
    assert peer_environ(PASSIVE) == {"OMP_WAIT_POLICY": "passive"}
    assert peer_environ(DEFAULTS) == {}
