"""GET /metrics: what engines, manager and HTTP workers have counted, in Prometheus' text format 0.0.4.

None of the figures is one worker's own, so they are the same whichever of several is asked; docs/metrics.md lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Union

import falcon

from dmr.types import Histogram, ModelStatistics, Statistics
from dmr_server import lifecycle_metrics, served_metrics
from dmr_server.docker import BACKEND, DockerDialect
from dmr_server.exposition import CONTENT_TYPE, Labels, Number, Sample, family
from dmr_server.recording.recorder import counted_name

if TYPE_CHECKING:
    from dmr.service import Service
    from dmr_server.recording.recorder import Recorder


class Metric(NamedTuple):
    """`samples`: of one engine that generates text, without the label of its model."""

    name: str
    kind: str
    help: str
    samples: Callable[[Statistics], Iterable[Sample]]


def _one(value: Callable[[Statistics], Union[Number, Histogram]]) -> Callable[[Statistics], list[Sample]]:
    return lambda told: [({}, value(told))]


def _counter(name: str, text: str, value: Callable[[Statistics], Number]) -> Metric:
    return Metric(name, "counter", text, _one(value))


def _gauge(name: str, text: str, value: Callable[[Statistics], Number]) -> Metric:
    return Metric(name, "gauge", text, _one(value))


def _histogram(name: str, text: str, value: Callable[[Statistics], Histogram]) -> Metric:
    return Metric(name, "histogram", text, _one(value))


def _requests(told: Statistics) -> list[Sample]:
    return [
        ({"outcome": "completed"}, told.num_completed),
        ({"outcome": "failed"}, told.num_failed),
        ({"outcome": "aborted"}, told.num_aborted),
        ({"outcome": "refused"}, told.num_refused),
    ]


def _steps(told: Statistics) -> list[Sample]:
    return [
        ({"outcome": "completed"}, told.num_steps),
        ({"outcome": "interrupted"}, told.num_interrupted_steps),
        ({"outcome": "no_room"}, told.num_full_steps),
        ({"outcome": "failed"}, told.num_failed_steps),
    ]


def _ratio(count: Number, per: Number) -> float:
    return count / per if per else 0.0


_OURS = (
    Metric("dmr_requests_total", "counter", "Requests by how they ended.", _requests),
    Metric("dmr_steps_total", "counter", "Steps of the engine by how they ended.", _steps),
    _counter("dmr_prompt_tokens_total", "Tokens of prompts that are there.", lambda told: told.num_prompt_tokens),
    _counter(
        "dmr_cached_prompt_tokens_total",
        "Of them, those that were shared or restored instead of computed.",
        lambda told: told.num_cached_tokens,
    ),
    _counter(
        "dmr_computed_prompt_tokens_total",
        "Tokens of prompts that were computed, some more than once.",
        lambda told: told.num_computed_prompt_tokens,
    ),
    _counter("dmr_generated_tokens_total", "Tokens that were generated.", lambda told: told.num_generated_tokens),
    _counter("dmr_preemptions_total", "Sequences that made way for others.", lambda told: told.num_preemptions),
    _counter("dmr_draft_tokens_total", "Guesses that steps have verified.", lambda told: told.num_drafted_tokens),
    _counter(
        "dmr_accepted_draft_tokens_total", "Of them, those that were right.", lambda told: told.num_accepted_tokens
    ),
    _counter("dmr_host_cache_hits_total", "Sequences helped from host memory.", lambda told: told.num_host_hits),
    _counter("dmr_host_cache_saved_tokens_total", "Tokens saved to host memory.", lambda told: told.num_saved_tokens),
    _counter(
        "dmr_host_cache_restored_tokens_total",
        "Tokens brought back from host memory.",
        lambda told: told.num_restored_tokens,
    ),
    _counter("dmr_media_encoded_total", "Images and sounds that were encoded.", lambda told: told.num_encoded_media),
    _counter(
        "dmr_media_cache_hits_total",
        "Images and sounds whose vectors were there already.",
        lambda told: told.num_media_hits,
    ),
    _counter("dmr_media_encode_seconds_total", "Of encoding images and sounds.", lambda told: told.media_seconds),
    _counter("dmr_decodes_total", "Batches that llama.cpp has computed.", lambda told: told.num_decodes),
    _counter(
        "dmr_reused_graphs_total",
        "Graphs that llama.cpp took from the batch before instead of building them.",
        lambda told: told.num_reused_graphs,
    ),
    _counter("dmr_prompt_seconds_total", "Of steps, the share of tokens of prompts.", lambda told: told.prompt_seconds),
    _counter("dmr_generation_seconds_total", "The rest of the steps.", lambda told: told.generation_seconds),
    _gauge("dmr_max_sequence_tokens", "Of the longest sequence so far.", lambda told: told.max_sequence_tokens),
    _gauge("dmr_running_sequences", "Sequences that run.", lambda told: told.num_running),
    _gauge("dmr_waiting_sequences", "Sequences that wait for a place.", lambda told: told.num_waiting),
    _gauge("dmr_kv_cells", "Cells of the KV memory, one for each token.", lambda told: told.num_cells),
    _gauge("dmr_kv_used_cells", "Cells in use, active or parked.", lambda told: told.num_used_cells),
    _gauge("dmr_kv_active_cells", "Cells of sequences that run.", lambda told: told.num_active_cells),
    _gauge("dmr_kv_parked_cells", "Cells kept for those who come later.", lambda told: told.num_parked_cells),
    _gauge("dmr_host_cache_bytes", "Bytes saved in host memory.", lambda told: told.host_bytes),
    _gauge("dmr_host_cache_max_bytes", "Bytes that may be saved there.", lambda told: told.max_host_bytes),
    _gauge(
        "dmr_waiting_media",
        "Images and sounds that are being encoded or wait for it.",
        lambda told: told.num_waiting_media,
    ),
    _gauge("dmr_media_cache_bytes", "Bytes of vectors of images and sounds.", lambda told: told.media_cache_bytes),
    _gauge("dmr_media_cache_max_bytes", "Bytes they may have.", lambda told: told.max_media_cache_bytes),
    _gauge("dmr_compute_threads", "Threads that compute.", lambda told: told.num_threads),
    _histogram(
        "dmr_time_to_first_token_seconds",
        "Of a request, from its arrival at the engine to its first token.",
        lambda told: told.time_to_first_token,
    ),
    _histogram(
        "dmr_inter_token_latency_seconds",
        "From one token of a sequence to the next.",
        lambda told: told.inter_token_latency,
    ),
    _histogram(
        "dmr_queue_time_seconds",
        "Of a request, from its arrival at the engine to the first step for it.",
        lambda told: told.queue_time,
    ),
    _histogram("dmr_step_seconds", "What a step took.", lambda told: told.step_time),
    _histogram("dmr_step_tokens", "Tokens that a step computed.", lambda told: told.batch_tokens),
)
# llama-server's names, for dashboards that know them; with the labels that Docker Model Runner adds.
_ALIASES = {
    "llamacpp:prompt_tokens_total": "dmr_computed_prompt_tokens_total",
    "llamacpp:prompt_seconds_total": "dmr_prompt_seconds_total",
    "llamacpp:tokens_predicted_seconds_total": "dmr_generation_seconds_total",
    "llamacpp:n_tokens_max": "dmr_max_sequence_tokens",
    "llamacpp:prompt_tokens_cached_total": "dmr_cached_prompt_tokens_total",
    "llamacpp:tokens_predicted_total": "dmr_generated_tokens_total",
    "llamacpp:n_decode_total": "dmr_decodes_total",
    "llamacpp:requests_processing": "dmr_running_sequences",
    "llamacpp:requests_deferred": "dmr_waiting_sequences",
    "llamacpp:spec_decode_num_draft_tokens_total": "dmr_draft_tokens_total",
    "llamacpp:spec_decode_num_accepted_tokens_total": "dmr_accepted_draft_tokens_total",
}


_RUNNER: Labels = {"backend": BACKEND, "mode": "completion"}


def _alias(metric: Metric, name: str) -> Metric:
    def samples(told: Statistics) -> list[Sample]:
        return [({**labels, **_RUNNER}, value) for labels, value in metric.samples(told)]

    return Metric(name, metric.kind, f"As {metric.name}.", samples)


def _average(name: str, text: str, value: Callable[[Statistics], Number]) -> Metric:
    return _alias(_gauge(name, "", value), name)._replace(help=text)


_BY_NAME = {metric.name: metric for metric in _OURS}
METRICS = (
    *_OURS,
    *(_alias(_BY_NAME[name], alias) for alias, name in _ALIASES.items()),
    _average(
        "llamacpp:n_busy_slots_per_decode",
        "Sequences in a step, on average.",
        lambda told: _ratio(told.num_step_sequences, told.num_steps),
    ),
    _average(
        "llamacpp:prompt_tokens_seconds",
        "Tokens of prompts that were computed in a second, on average.",
        lambda told: _ratio(told.num_computed_prompt_tokens, told.prompt_seconds),
    ),
    _average(
        "llamacpp:predicted_tokens_seconds",
        "Tokens that were generated in a second, on average.",
        lambda told: _ratio(told.num_generated_tokens, told.generation_seconds),
    ),
)
UP = ("dmr_engine_up", "gauge", "1 if the engine has answered, 0 if it loads or did not answer in time.")
STARTED = ("dmr_engine_start_time_seconds", "gauge", "When the engine was started, in Unix time.")


NO_RUNNERS = "# No active runners"  # Docker Model Runner's line, and a comment for Prometheus


class Metrics:
    """GET /metrics: it loads no model and is no use of one."""

    dialect = DockerDialect()

    def __init__(self, service: Service, recorder: Recorder) -> None:
        self._service = service
        self._recorder = recorder

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        models, names = self._service.statistics(), self._names()
        parts = [
            exposition(models, names) if models else f"{NO_RUNNERS}\n",
            lifecycle_metrics.exposition(
                self._service.lifecycle(), names, self._service.upstreams.states(is_urgent=True)
            ),
            served_metrics.exposition(self._recorder.counts()),
        ]
        resp.data = "".join(parts).encode()
        resp.content_type = CONTENT_TYPE

    on_head = on_get

    def _names(self) -> dict[str, str]:
        return {record.id: counted_name(record) for record in self._service.list_models()}


def exposition(models: Sequence[ModelStatistics], names: Mapping[str, str] = {}) -> str:
    """All that engines have counted. A metric that no model has is left out. `names`: as in `lifecycle_metrics`."""
    return "".join(f"{line}\n" for line in _lines(models, names))


def _lines(models: Sequence[ModelStatistics], names: Mapping[str, str]) -> Iterator[str]:
    named = [(names.get(each.model.id, each.model.id), each) for each in models]
    yield from family(*UP, [({"model": name}, int(each.is_up)) for name, each in named])
    yield from family(*STARTED, [({"model": name}, each.model.loaded_at) for name, each in named])
    told = [(name, each.statistics) for name, each in named if each.statistics is not None]
    for metric in METRICS:
        samples = [({"model": name, **labels}, value) for name, each in told for labels, value in metric.samples(each)]
        yield from family(metric.name, metric.kind, metric.help, samples)
