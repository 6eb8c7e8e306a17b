"""What the engines have counted. They are asked without leases: to look at a model neither loads nor keeps it."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

from dmr.client import EngineClient, ManagerClient
from dmr.errors import DmrError
from dmr.types import ModelStatistics, RunningModel
from dmr.wire import EngineMeasure, EngineStatistics

PATIENCE = 1.0  # seconds that an engine has for its answer
MAX_THREADS = 16


def measure_all(manager: ManagerClient) -> list[ModelStatistics]:
    """Of every loaded model, those that still load among them; all engines are asked at the same time.

    A model that has two, since it was configured anew, is that of the engine which takes new requests.

    Raises:
        Unavailable: there is no manager.
    """
    engines = list({model.id: (model, socket) for model, socket in reversed(manager.running_engines())}.values())[::-1]
    if not engines:
        return []
    with ThreadPoolExecutor(max_workers=min(MAX_THREADS, len(engines)), thread_name_prefix="measure") as threads:
        return list(threads.map(lambda engine: _measure(*engine), engines))


def _measure(model: RunningModel, socket: str) -> ModelStatistics:
    if model.state == "ready":
        # An engine that dies or ends meanwhile is one that does not answer.
        with contextlib.suppress(DmrError):
            reply = _ask(socket)
            if reply is not None:
                return ModelStatistics(model, True, reply.statistics)
    return ModelStatistics(model, False)


def _ask(socket: str) -> EngineStatistics | None:
    deadline = time.monotonic() + PATIENCE
    with contextlib.closing(EngineClient(socket).ask(EngineMeasure(), EngineStatistics)) as replies:
        for reply in replies:
            if reply is not None or time.monotonic() >= deadline:
                return reply
    return None
