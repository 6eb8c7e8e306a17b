"""What the engine counts of itself. For its own thread; what others see is the frozen `Statistics`.

There is no clock here: times are handed in. A step costs it some microseconds, a token one histogram's update.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

from dmr.engine.scheduler import Chunk, Scheduler
from dmr.engine.sequence import Sequence
from dmr.engine.speculation import Speculation
from dmr.types import Histogram, Statistics

# Upper bounds in seconds: of what a user waits for, and of what lies between two tokens.
WAITING_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
STEP_BOUNDS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
TOKEN_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0)


class NativeCounters(NamedTuple):
    num_decodes: int = 0
    num_reused_graphs: int = 0
    num_threads: int = 0  # that compute; 0 = not known


class Tally:
    """A histogram that grows."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._total += value * times

    def histogram(self) -> Histogram:
        return Histogram(self._bounds, tuple(self._counts), self._total)


class Recorder:
    """Counts since the engine was made."""

    def __init__(self) -> None:
        self.num_interrupted_steps = 0
        self.num_full_steps = 0
        self.num_failed_steps = 0
        self.time_to_first_token = Tally(WAITING_BOUNDS)
        self.queue_time = Tally(WAITING_BOUNDS)
        self._inter_token_latency = Tally(STEP_BOUNDS)
        self._step_time = Tally(STEP_BOUNDS)
        self._batch_tokens = Tally(TOKEN_BOUNDS)
        self._num_steps = 0
        self._num_step_sequences = 0
        self._num_prompt_tokens = 0
        self._num_cached_tokens = 0
        self._num_computed_prompt_tokens = 0
        self._num_generated_tokens = 0
        self._prompt_seconds = 0.0
        self._generation_seconds = 0.0
        self._max_sequence_tokens = 0
        self._last_tokens: dict[int, float] = {}  # when a sequence got its last token, by its id

    def observe_step(self, chunks: SequenceOf[Chunk], num_tokens: int, seconds: float) -> None:
        """A step is done; nothing has come of it for its sequences yet. `num_tokens`: computed, with guesses."""
        self._num_steps += 1
        self._num_step_sequences += len(chunks)
        self._step_time.add(seconds)
        self._batch_tokens.add(num_tokens)
        num_prompt_tokens, longest = 0, self._max_sequence_tokens
        for sequence, start, num_chunk_tokens, _, _ in chunks:
            num_left = sequence.num_prompt_tokens - start
            if num_left > 0:
                num_prompt_tokens += min(num_chunk_tokens, num_left)
            if start + num_chunk_tokens > longest:
                longest = start + num_chunk_tokens
        self._max_sequence_tokens = longest
        self._num_computed_prompt_tokens += num_prompt_tokens
        prompt_seconds = seconds * num_prompt_tokens / num_tokens if num_tokens else 0.0
        self._prompt_seconds += prompt_seconds
        self._generation_seconds += seconds - prompt_seconds

    def observe_prompt(self, sequence: Sequence) -> None:
        """All of a sequence's prompt is there, for the first time."""
        self._num_prompt_tokens += sequence.num_prompt_tokens
        self._num_cached_tokens += sequence.num_cached_tokens

    def observe_tokens(self, sequence: Sequence, num_tokens: int, now: float) -> None:
        """A sequence has got tokens, at `now` of any clock. Those of one step share the time since the last."""
        self._num_generated_tokens += num_tokens
        last = self._last_tokens.get(sequence.id)
        if last is not None and num_tokens > 0:
            self._inter_token_latency.add((now - last) / num_tokens, num_tokens)
        self._last_tokens[sequence.id] = now

    def forget(self, sequence: Sequence) -> None:
        self._last_tokens.pop(sequence.id, None)

    def statistics(self, scheduler: Scheduler, speculation: Speculation | None, native: NativeCounters) -> Statistics:
        """All of it as one value; what the step loop counts is not in it."""
        kv_cache = scheduler.kv_cache
        num_active, num_parked, host = kv_cache.num_active_cells, kv_cache.num_parked_cells, kv_cache.host
        return Statistics(
            num_prompt_tokens=self._num_prompt_tokens,
            num_cached_tokens=self._num_cached_tokens,
            num_computed_prompt_tokens=self._num_computed_prompt_tokens,
            num_generated_tokens=self._num_generated_tokens,
            num_steps=self._num_steps,
            num_interrupted_steps=self.num_interrupted_steps,
            num_full_steps=self.num_full_steps,
            num_failed_steps=self.num_failed_steps,
            num_step_sequences=self._num_step_sequences,
            num_preemptions=scheduler.num_preemptions,
            prompt_seconds=self._prompt_seconds,
            generation_seconds=self._generation_seconds,
            max_sequence_tokens=self._max_sequence_tokens,
            num_drafted_tokens=speculation.num_drafted_tokens if speculation else 0,
            num_accepted_tokens=speculation.num_accepted_tokens if speculation else 0,
            num_host_hits=host.num_hits if host else 0,
            num_saved_tokens=host.num_saved_tokens if host else 0,
            num_restored_tokens=host.num_restored_tokens if host else 0,
            num_decodes=native.num_decodes,
            num_reused_graphs=native.num_reused_graphs,
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_cells=kv_cache.num_cells,
            num_used_cells=num_active + num_parked,
            num_active_cells=num_active,
            num_parked_cells=num_parked,
            host_bytes=host.num_bytes if host else 0,
            max_host_bytes=host.max_bytes if host else 0,
            num_threads=native.num_threads,
            time_to_first_token=self.time_to_first_token.histogram(),
            inter_token_latency=self._inter_token_latency.histogram(),
            queue_time=self.queue_time.histogram(),
            step_time=self._step_time.histogram(),
            batch_tokens=self._batch_tokens.histogram(),
        )
