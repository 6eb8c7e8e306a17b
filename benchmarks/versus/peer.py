"""llama-server: its settings, and how it is started."""

from __future__ import annotations

import os
from pathlib import Path

from .processes import Process, answers, free_port
from .row import DEFAULTS, STREAMS, UNIFIED, Setup

# Not in the targets, for who wants to know: threads that sleep at barriers, and shorter batches for latency.
PASSIVE, SHORT_BATCHES = "passive", "streams-b512"
SETTINGS = (DEFAULTS, STREAMS, UNIFIED, PASSIVE, SHORT_BATCHES)
START_TIMEOUT = 60.0


def peer_flags(setting: str, setup: Setup, num_threads: int) -> list[str]:
    """The command line of a setting, without the model and the port.

    The defaults are llama-server's own: 4 sequences in one unified KV memory as large as the model's context. The best
    flags are those that a user who knows the load would choose.
    """
    flags = ["-t", str(num_threads), "--metrics"]
    if setup.embeds:
        flags.append("--embeddings")
    if setting in (DEFAULTS, PASSIVE):
        return [*flags, *(["-c", str(setup.context)] if setup.context else [])]
    context = setup.context or setup.num_sequences * setup.context_per_sequence
    # Encoders have to take a batch in one piece, so only a larger one lets them take all the sequences at once.
    ubatch = 2048 if setup.embeds else 512
    flags += ["-np", str(setup.num_sequences), "-c", str(context), "-fa", "on"]
    flags += ["-b", "512" if setting == SHORT_BATCHES else "2048", "-ub", str(ubatch), "-bs"]
    flags += ["--threads-http", str(2 * setup.num_sequences), "--no-cache-idle-slots"]
    return [*flags, "-kvu" if setting == UNIFIED else "--no-kv-unified"]


def peer_environ(setting: str) -> dict[str, str]:
    """What the setting adds to the environment."""
    return {"OMP_WAIT_POLICY": "passive"} if setting == PASSIVE else {}


def start_peer(
    binary: Path, model: Path, setting: str, setup: Setup, num_threads: int, log: Path
) -> tuple[Process, str]:
    """A ready llama-server and its URL. Raises DidNotStart."""
    port = free_port()
    command = [str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(port)]
    # Variables of llama-server's own and of OpenMP would be settings that nobody sees in the table.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_", "OMP_", "GOMP_"))}
    process = Process(command + peer_flags(setting, setup, num_threads), log, {**environ, **peer_environ(setting)})
    url = f"http://127.0.0.1:{port}"
    process.wait_ready(lambda: answers(url + "/health"), START_TIMEOUT)
    return process, url
