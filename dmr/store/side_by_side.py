"""Layers of one model travel several at a time, and fail together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from dmr.store.manifest import Descriptor
from dmr.store.registry.transport import TransferCancelled, Transport


def side_by_side(
    work: Callable[[Descriptor], None], layers: Sequence[Descriptor], number: int, transport: Transport
) -> None:
    """So many at a time, the largest first. One that fails ends the others, and `transport`; its error is raised."""
    if not layers:
        return
    with ThreadPoolExecutor(number, thread_name_prefix="layer") as pool:
        jobs = [pool.submit(work, layer) for layer in sorted(layers, key=lambda layer: -layer.size)]
        done, rest = wait(jobs, return_when=FIRST_EXCEPTION)
        if any(job.exception() is not None for job in done):
            transport.give_up()
            for job in rest:
                job.cancel()
    errors = [error for job in jobs if not job.cancelled() and (error := job.exception()) is not None]
    # A part that was given up is the consequence, not the cause.
    for error in sorted(errors, key=lambda error: isinstance(error, TransferCancelled)):
        raise error
