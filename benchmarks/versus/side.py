"""One side of a comparison: its servers, started and warm, and the load that a row puts on them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import urllib3

from dmr.bench.load import LoadClient, Outcome

from .dmr_server import start_dmr
from .figures import RoundFailed, check
from .peer import start_peer
from .processes import Process
from .row import Load, Setup

DMR = "dmr"
REQUEST_TIMEOUT = 600.0
IDLE_SHARE = 0.1  # of one core; a server that takes less is at rest
IDLE_WINDOW = 0.3  # seconds
IDLE_TIMEOUT = 60.0


class Endpoint(NamedTuple):
    url: str
    model: str


class Running(NamedTuple):
    processes: tuple[Process, ...]
    endpoints: tuple[Endpoint, ...]  # one for each model


class HttpLoad:
    """The load of rows as HTTP requests."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints

    async def complete(
        self,
        prompt: str,
        num_tokens: int,
        *,
        model: int = 0,
        key: str | None = None,
        cancel_after: float | None = None,
    ) -> Outcome:
        url, name = self._endpoints[model]
        body = {"model": name, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
        headers = {"Authorization": f"Bearer {key}"} if key else None
        return await LoadClient(url, headers, timeout=REQUEST_TIMEOUT).complete(body, cancel_after=cancel_after)

    async def embed(self, texts: list[str]) -> Outcome:
        url, name = self._endpoints[0]
        return await LoadClient(url, timeout=REQUEST_TIMEOUT).embed({"model": name, "input": texts})

    async def tokenize(self, text: str) -> list[int]:
        url, name = self._endpoints[0]
        body = {"model": name, "content": text, "add_special": True}
        answer = await asyncio.to_thread(_post, url + "/tokenize", body)
        tokens: list[int] = answer["tokens"]
        return tokens

    async def choices(self, prompt: str, num_tokens: int) -> list[tuple[str, float]]:
        url, _ = self._endpoints[0]
        body = {"prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True, "logprobs": 2}
        answer = await asyncio.to_thread(_post, url + "/v1/completions", body)
        content = answer["choices"][0]["logprobs"]["content"]
        likeliest = [[other["logprob"] for other in entry["top_logprobs"]] for entry in content]
        return [(entry["token"], best[0] - best[1]) for entry, best in zip(content, likeliest, strict=True)]


def _post(url: str, body: dict[str, Any]) -> Any:
    """Raises RoundFailed."""
    response = urllib3.request("POST", url, json=body, retries=False, timeout=REQUEST_TIMEOUT)
    if response.status != 200:
        raise RoundFailed(f"{response.status}: {response.data[:300].decode(errors='replace')}")
    return response.json()


class Side:
    """Started on first use. A context manager, which ends it."""

    def __init__(self, name: str, start: Callable[[], Running], embeds: bool = False) -> None:
        self.name = name
        self._start = start
        self._embeds = embeds
        self._running: Running | None = None

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def load(self) -> Load:
        """Starts what does not run, or runs no more. Raises DidNotStart, RoundFailed."""
        if self._running is not None and any(process.has_ended for process in self._running.processes):
            self.stop()
        if self._running is None:
            self._running = self._start()
            asyncio.run(_warm(self._running, self._embeds))
        return HttpLoad(self._running.endpoints)

    def stop(self) -> None:
        running, self._running = self._running, None
        for process in running.processes if running else ():
            process.stop()

    def cpu_seconds(self) -> float:
        return sum(process.cpu_seconds() for process in self._running.processes) if self._running else 0.0

    def come_to_rest(self) -> None:
        """Wait until nothing of an earlier round is computed any more; start anew if that takes too long."""
        deadline = time.monotonic() + IDLE_TIMEOUT
        while self._running is not None:
            before = self.cpu_seconds()
            time.sleep(IDLE_WINDOW)
            if self.cpu_seconds() - before < IDLE_SHARE * IDLE_WINDOW:
                return
            if time.monotonic() > deadline:
                self.stop()


async def _warm(running: Running, embeds: bool) -> None:
    load = HttpLoad(running.endpoints)
    for model in range(len(running.endpoints)):
        check([await load.embed(["warm"] * 8) if embeds else await load.complete("=== ===", 8, model=model)])


def peer_side(name: str, binary: Path, models: Sequence[Path], setup: Setup, num_threads: int, folder: Path) -> Side:
    """A llama-server for each model."""

    def start() -> Running:
        with contextlib.ExitStack() as stack:
            processes, endpoints = [], []
            for model in models:
                process, url = start_peer(binary, model, name, setup, num_threads, folder / f"{name}.log")
                processes.append(stack.enter_context(process))
                endpoints.append(Endpoint(url, model.name))
            stack.pop_all()
        return Running(tuple(processes), tuple(endpoints))

    return Side(name, start, setup.embeds)


def dmr_side(models_path: Path, names: Sequence[str], setup: Setup, settings: Mapping[str, str], folder: Path) -> Side:
    """One dmr that serves all models."""

    def start() -> Running:
        process, url = start_dmr(models_path, folder / "run", settings, folder / "dmr.log")
        return Running((process,), tuple(Endpoint(url, name) for name in names))

    return Side(DMR, start, setup.embeds)
