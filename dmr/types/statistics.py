"""What an engine has counted since it was loaded, as one value."""

from __future__ import annotations

from typing import Union

from dmr.types.models import RunningModel
from dmr.types.value import Value


class Histogram(Value, frozen=True):
    """`counts[i]`: values of at most `bounds[i]` and above the bound before; the last count has those above all."""

    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = (0,)
    total: float = 0.0  # the sum of all values


class Statistics(Value, frozen=True):
    """Counts since the engine was loaded, levels of now, and distributions. Times are seconds.

    A request may have several sequences, one for each choice. Tokens and cells are counted by sequence.
    """

    # Requests by their end.
    num_completed: int = 0
    num_failed: int = 0  # with an error, that of a deadline among them
    num_aborted: int = 0  # the client has left
    num_refused: int = 0  # for want of a place in the queue
    # Tokens.
    num_prompt_tokens: int = 0  # of sequences whose prompt is there, computed or not
    num_cached_tokens: int = 0  # of them, those that were shared or restored instead of computed
    num_computed_prompt_tokens: int = 0  # with what was computed anew after it had to leave the memory
    num_generated_tokens: int = 0
    # Steps.
    num_steps: int = 0  # that gave something
    num_interrupted_steps: int = 0  # stopped, since most of it was for requests that were aborted
    num_full_steps: int = 0  # for which the native memory had no room
    num_failed_steps: int = 0
    num_step_sequences: int = 0  # the sum, over all steps, of sequences in one
    num_preemptions: int = 0
    prompt_seconds: float = 0.0  # of steps, shared out by the tokens that were computed
    generation_seconds: float = 0.0  # the rest of the steps
    max_sequence_tokens: int = 0  # of the longest sequence so far
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    # Host memory.
    num_host_hits: int = 0
    num_saved_tokens: int = 0
    num_restored_tokens: int = 0
    # Images and sounds.
    num_encoded_media: int = 0  # files
    num_media_hits: int = 0  # files whose vectors were there already
    media_seconds: float = 0.0  # that encoding took, cancelled files and broken ones among them
    # Native code.
    num_decodes: int = 0
    num_reused_graphs: int = 0
    # Levels.
    num_running: int = 0  # sequences
    num_waiting: int = 0
    num_cells: int = 0
    num_used_cells: int = 0  # active or parked
    num_active_cells: int = 0
    num_parked_cells: int = 0
    host_bytes: int = 0
    max_host_bytes: int = 0
    num_waiting_media: int = 0  # files that are being encoded or wait for it
    media_cache_bytes: int = 0
    max_media_cache_bytes: int = 0
    num_threads: int = 0
    # Distributions.
    time_to_first_token: Histogram = Histogram()  # of requests, from their arrival at the engine
    inter_token_latency: Histogram = Histogram()
    queue_time: Histogram = Histogram()  # of requests, until the step that computes their first token of a prompt
    step_time: Histogram = Histogram()
    batch_tokens: Histogram = Histogram()  # computed in one step, guesses among them


class ModelStatistics(Value, frozen=True):
    """A loaded model and what its engine told."""

    model: RunningModel
    is_up: bool  # the engine has answered
    statistics: Union[Statistics, None] = None  # None as well if it generates no text
