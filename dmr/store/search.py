"""Looks for models at the hubs that they can be pulled from. One that does not answer does not hide the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import msgspec

from dmr.errors import DmrError, RegistryError
from dmr.store.hub_catalog import search_docker_hub
from dmr.store.hugging_face.search import search_hugging_face
from dmr.store.pull import RegistryOptions
from dmr.store.registry.transport import Transport
from dmr.store.search_sources import DOCKER_HUB, EVERYWHERE, HUGGING_FACE, SOURCES
from dmr.store.search_types import Found, Measure

MAX_RESULTS = 1000
MEASURING_SECONDS = 8.0  # for the sizes of all results; those that are not known by then are left out
NUM_PARALLEL = 8

Search = Callable[[str, int, RegistryOptions, Transport], tuple[list[Found], Measure]]
_SEARCHES: Mapping[str, Search] = {DOCKER_HUB: search_docker_hub, HUGGING_FACE: search_hugging_face}


class SearchResults(msgspec.Struct, frozen=True):
    """`errors` by source: of those that could not tell."""

    found: tuple[Found, ...]
    errors: Mapping[str, DmrError]


def search_models(
    term: str,
    limit: int,
    options: RegistryOptions,
    source: str = EVERYWHERE,
    measuring_seconds: float = MEASURING_SECONDS,
) -> SearchResults:
    """Up to `limit` models whose name or description holds `term`, the most pulled ones of each source first.

    Several sources share the places fairly. Blocks.

    Raises:
        DmrError: no source could tell.
    """
    sources = SOURCES if source == EVERYWHERE else (source,)
    transport = Transport(certificates=options.certificates, environ=options.environ)
    with ThreadPoolExecutor(len(sources), thread_name_prefix="search") as pool:
        jobs = {name: pool.submit(_SEARCHES[name], term.strip(), limit, options, transport) for name in sources}
    errors = {name: error for name, job in jobs.items() if isinstance(error := job.exception(), DmrError)}
    if len(errors) == len(sources):
        raise _together(errors)
    answers = [job.result() for name, job in jobs.items() if name not in errors]
    places = _share([len(found) for found, _ in answers], limit)
    chosen = [(one, measure) for (found, measure), n in zip(answers, places, strict=True) for one in found[:n]]
    return SearchResults(tuple(_measured(chosen, transport, measuring_seconds)), errors)


def _together(errors: Mapping[str, DmrError]) -> DmrError:
    if len(errors) == 1:
        return next(iter(errors.values()))
    told = " ".join(f"{name}: {error.message}" for name, error in errors.items())
    return RegistryError(f"Nothing could be searched. {told}")


def _share(counts: Sequence[int], limit: int) -> list[int]:
    """How many each may show: as equal as can be, and none left over that another could have used."""
    places = [0] * len(counts)
    while limit > 0 and (hungry := [i for i, count in enumerate(counts) if places[i] < count]):
        each = max(1, limit // len(hungry))
        for index in hungry:
            given = min(each, counts[index] - places[index], limit)
            places[index] += given
            limit -= given
    return places


def _measured(chosen: Sequence[tuple[Found, Measure]], transport: Transport, seconds: float) -> list[Found]:
    """With the sizes, which cost a request or two each."""
    end = time.monotonic() + seconds
    pool = ThreadPoolExecutor(NUM_PARALLEL, thread_name_prefix="measure")
    jobs = [pool.submit(measure, one) for one, measure in chosen]
    try:
        wait(jobs, timeout=max(0.0, end - time.monotonic()))
        results = []
        for (one, _), job in zip(chosen, jobs, strict=True):
            is_known = job.done() and not job.cancelled() and job.exception() is None
            results.append(job.result() if is_known else one)
        return results
    finally:
        transport.give_up()
        pool.shutdown(wait=False, cancel_futures=True)
