"""Load, kills and the account of both."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from .requests import ENDS, Ask, End, ask, choose
from .server import Holding, SoakedServer

RECOVERY = 5.0  # seconds after the load in which the server must be as before
PAUSE = 0.2  # seconds that a client waits after an error; it is told to wait longer
SETTINGS = {"DMR_HANG_TIMEOUT": "5", "DMR_CONTEXT_SIZE": "4096"}

Way = tuple[str, Callable[[], list[int]], int]  # what it is called, whom it may hit, by which signal


class Report(msgspec.Struct):
    seconds: float
    ends: dict[str, dict[str, int]] = {}  # by kind of request
    errors: dict[str, int] = {}  # what was said, by how often
    kills: dict[str, int] = {}
    problems: list[str] = []
    warm: Holding | None = None
    final: Holding | None = None
    recovery_seconds: float = 0.0

    def lines(self) -> list[str]:
        """For people."""
        rows = [f"{'':16}" + "".join(f"{end:>10}" for end in ENDS)]
        rows += [f"{kind:16}" + "".join(f"{ends.get(end, 0):>10}" for end in ENDS) for kind, ends in self.ends.items()]
        rows += ["", "kills: " + (", ".join(f"{what} {count}" for what, count in self.kills.items()) or "none")]
        rows += [f"{count:6} {said}" for said, count in sorted(self.errors.items(), key=lambda item: -item[1])[:15]]
        for name, held in (("after warm-up", self.warm), ("at the end", self.final)):
            if held is not None:
                rows.append(
                    f"{name}: {held.num_processes} processes, {held.rss_bytes >> 20} MiB, {held.num_files} files"
                )
        rows.append(f"recovered {self.recovery_seconds:.1f} s after the load")
        return rows + (self.problems[:30] or ["every request is accounted for"])


class Soak:
    """`kill_interval`: seconds between two kills on average; 0 = nothing is killed."""

    def __init__(
        self, server: SoakedServer, models: Sequence[str], num_clients: int, kill_interval: float, seed: int
    ) -> None:
        self._server = server
        self._models = list(models)
        self._num_clients = num_clients
        self._kill_interval = kill_interval
        self._seed = seed
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._ends: Counter[tuple[str, str]] = Counter()
        self._said: Counter[str] = Counter()
        self._kills: Counter[str] = Counter()
        self._problems: list[str] = []

    def run(self, seconds: float) -> Report:
        """Put load on it for so long, then see that all is as before."""
        report = Report(seconds)
        threads = [threading.Thread(target=self._client, args=(number,)) for number in range(self._num_clients)]
        threads.append(threading.Thread(target=self._killer))
        for thread in threads:
            thread.start()
        try:
            self._over.wait(seconds / 4)
            report.warm = self._server.holding()
            self._over.wait(seconds * 3 / 4)
        finally:  # it may be interrupted
            self._over.set()
        for thread in threads:
            thread.join()
        self._recover(report)
        report.final = self._server.holding()
        for (kind, how), count in sorted(self._ends.items()):
            report.ends.setdefault(kind, {})[how] = count
        report.errors, report.kills = dict(self._said), dict(self._kills)
        report.problems = self._problems
        return report

    def _client(self, number: int) -> None:
        dice = random.Random(self._seed + number)
        while not self._over.is_set():
            num_kills = self._kills["worker"]
            end = ask(self._server.port, choose(dice, self._models))
            # Only a worker takes connections along; what else dies is told in an error.
            self._account(end, may_be_cut=self._kills["worker"] != num_kills)
            if end.how in ("failed", "cut"):
                self._over.wait(PAUSE)

    def _account(self, end: End, may_be_cut: bool) -> None:
        with self._lock:
            self._ends[end.ask.kind, end.how] += 1
            if end.how in ("failed", "malformed", "cut"):
                self._said[f"{end.how}: {end.detail}"] += 1
            if end.how in ("hung", "malformed") or (end.how == "cut" and not may_be_cut):
                self._problems.append(f"{end.ask.kind} {end.ask.path}: {end.how} {end.detail}")

    def _killer(self) -> None:
        dice = random.Random(self._seed - 1)
        usual: list[Way] = [
            ("engine", self._server.engines, signal.SIGKILL),
            ("engine", self._server.engines, signal.SIGSEGV),
            ("engine", self._server.engines, signal.SIGABRT),
            ("stopped engine", self._server.engines, signal.SIGSTOP),
            ("worker", self._server.workers, signal.SIGKILL),
        ]
        seldom: list[Way] = [  # a manager that ends all the time is started again later and later
            ("manager", self._server.managers, signal.SIGKILL),
            ("stopped manager", self._server.managers, signal.SIGSTOP),
        ]
        ways = [*usual, *usual, *seldom]
        unload = json.dumps({"models": self._models})
        while self._kill_interval and not self._over.wait(dice.expovariate(1 / self._kill_interval)):
            what, victims, number = dice.choice(ways)
            pids = victims()
            if pids:
                with self._lock:
                    self._kills[what] += 1
                with suppress(ProcessLookupError):
                    os.kill(dice.choice(pids), number)
            self._over.wait(1.0)
            # A model that crashes again and again is put aside for minutes; whoever unloads it has it tried at once.
            self._server.status("POST", "/engines/unload", unload)

    def _recover(self, report: Report) -> None:
        """Each model must answer within `RECOVERY`."""
        began = time.monotonic()
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        for model in self._models:
            what = Ask("recovery", "/v1/chat/completions", {**body, "model": model})
            while (end := ask(self._server.port, what)).how != "answered":
                if time.monotonic() - began > RECOVERY:
                    self._problems.append(f"{model} has not recovered after {RECOVERY:g} s: {end.how} {end.detail}")
                    break
                time.sleep(0.1)
        report.recovery_seconds = time.monotonic() - began
