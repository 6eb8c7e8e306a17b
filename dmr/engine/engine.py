"""The engine's turn: schedule, run, update. Owns the requests in flight; one thread drives it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from dmr.engine.crowding import Crowding
from dmr.engine.model_runner import Generator, Interrupted, NewTokens, NoRoom, StepFailed, StepOutput
from dmr.engine.prefill_pacer import PrefillPacer
from dmr.engine.running_step import NOTHING, StepSize, Unwanted, size_of
from dmr.engine.scheduler import Chunk, Schedule, Scheduler, Standing
from dmr.engine.sequence import Sequence
from dmr.engine.speculation import MAX_SEQUENCES, Speculation
from dmr.engine.statistics import NativeCounters, Recorder
from dmr.errors import DmrError, InternalError
from dmr.types import FinishReason, Statistics, Timings, TokenLogprob, Usage
from dmr.wire import EngineCompleted, EngineEcho, EngineMessage, EngineOutput, WireError

MAX_FAILED_STEPS = 3  # of a sequence without a new token in between, before its request is given up

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """What the engine needs of a model runner."""

    def run(self, schedule: Schedule, generators: dict[int, Generator]) -> StepOutput: ...
    def interrupt(self) -> None: ...
    def forget_all(self) -> None: ...
    def counters(self) -> NativeCounters: ...


class PendingEcho:
    """A prompt that is given back before the choice's first output."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.logprobs: list[TokenLogprob] = []  # of the prompt's tokens from the second on, if they are wanted


class Request:
    """One request in flight: its sequences and their native state."""

    def __init__(
        self,
        sequences: list[Sequence],
        generators: list[Generator],
        num_prompt_tokens: int,
        num_choices: int = 1,
        *,
        num_dropped_tokens: int = 0,
        echoes: dict[int, PendingEcho] | None = None,
        wants_token_ids: bool = False,
    ) -> None:
        """`echoes`: by index of the choice."""
        self.sequences = sequences
        self.generators = generators
        self.num_prompt_tokens = num_prompt_tokens
        self.num_choices = num_choices  # of each prompt
        self.num_dropped_tokens = num_dropped_tokens  # so that the prompts fit; `num_prompt_tokens` is without them
        self.echoes = echoes or {}
        self.wants_token_ids = wants_token_ids
        self.num_unfinished = len(sequences)
        self.num_completion_tokens = 0
        self.arrived = time.monotonic()
        self.started = 0.0  # when its first token was computed
        self.first_token = 0.0

    @property
    def num_cached_tokens(self) -> int:
        """Of all prompts, each counted once: what its first choice did not have to compute."""
        return sum(max(0, sequence.num_cached_tokens) for sequence in self.sequences[:: self.num_choices])

    def timings(self, now: float) -> Timings:
        started = self.started or now
        first = self.first_token or now
        return Timings(queued=started - self.arrived, prefill=first - started, decode=now - first)


Deliver = Callable[[Request, EngineMessage], None]


class Engine:
    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        pacer: PrefillPacer,
        deliver: Deliver,
        speculation: Speculation | None = None,
        crowding: Crowding | None = None,
    ) -> None:
        """`deliver` takes each message of a request; it is called on the engine's thread and must not block.

        `crowding`: looks after steps that could be interrupted because others have their cores.
        """
        self._runner = runner
        self._scheduler = scheduler
        self._pacer = pacer
        self._deliver = deliver
        self._speculation = speculation
        self._crowding = crowding
        self._requests: dict[int, Request] = {}  # by sequence id
        self._generators: dict[int, Generator] = {}
        self._recorder = Recorder()
        self._unwanted = NOTHING
        self._unconfirmed: list[Chunk] = []  # of the running step, those with guesses

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    @property
    def num_running(self) -> int:
        """Sequences. Any thread."""
        return len(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Sequences. Any thread."""
        return len(self._scheduler.waiting)

    def statistics(self) -> Statistics:
        """What was counted until now."""
        return self._recorder.statistics(self._scheduler, self._speculation, self._runner.counters())

    def add(self, request: Request) -> None:
        for sequence, generator in zip(request.sequences, request.generators, strict=True):
            self._requests[sequence.id] = request
            self._generators[sequence.id] = generator
            self._scheduler.add(sequence)

    def abort(self, request: Request) -> None:
        """Drop whatever of the request is unfinished. No message follows."""
        for sequence in request.sequences:
            self._forget(sequence)

    def interrupt_for(self, request: Request) -> None:
        """The request is about to be aborted: end the running step, if it is mostly for what is aborted. Any thread."""
        if self._unwanted.add(request.sequences):
            self._runner.interrupt()

    def step(self) -> None:
        """Let the sequences catch up by one step and deliver what came of it."""
        standing = self._scheduler.standing()
        drafts = self._guesses(standing)
        schedule = self._scheduler.schedule(self._pacer.budget(*standing), drafts)
        self._unconfirmed = [chunk for chunk in schedule.chunks if chunk.draft] if drafts else []
        size = size_of(schedule.chunks)
        began = time.monotonic()
        self._unwanted = Unwanted(schedule.chunks)
        try:
            output = self._run(schedule, size)
        except NoRoom:
            self._recorder.num_full_steps += 1
            self._make_room(schedule)
            return
        except Interrupted:
            self._recorder.num_interrupted_steps += 1
            self._unconfirmed = []
            self._scheduler.take_back(schedule)
            return
        except StepFailed as error:
            self._recorder.num_failed_steps += 1
            self._recover(schedule, str(error))
            return
        finally:
            self._unwanted = NOTHING
        now = time.monotonic()
        self._learn(schedule, output, size, now - began)
        for chunk in schedule.chunks:
            sequence = chunk.sequence
            request = self._requests.get(sequence.id)
            if request is None:  # another choice of the same request has failed in this very step
                continue
            if not request.started:
                request.started = began
                self._recorder.queue_time.add(began - request.arrived)
            if sequence.id in output.score_errors:
                reason = output.score_errors[sequence.id]
                self._fail(request, InternalError(f"The prompt could not be scored: {reason}."))
                continue
            if sequence.id in output.scores:
                self._take_scores(request, sequence, output.scores[sequence.id])
            if chunk.wants_output:
                self._update(request, sequence, output.tokens[sequence.id], now)
            elif sequence.is_done:
                self._end_without_answer(request, chunk, now)

    def give_up_all(self, error: DmrError) -> None:
        """End every request with an error and empty the native memory: what either holds is no longer known."""
        self._recorder.num_failed_steps += 1
        self._drop_guesses()
        for request in dict.fromkeys(self._requests.values()):
            self._fail(request, error)
        self._scheduler.preempt_all()
        self._runner.forget_all()

    def tidy(self) -> bool:
        """Use a moment in which there is nothing to compute; False = nothing is left to do."""
        operations = self._scheduler.idle_operations()
        if operations:
            try:
                self._runner.run(Schedule([], operations), {})
            except StepFailed:
                logger.exception("the native memory failed")
                self._scheduler.preempt_all()
                self._runner.forget_all()
        return bool(operations)

    def check_integrity(self) -> None:
        """Raises AssertionError when something is left behind. For idle moments and tests."""
        self._scheduler.check_integrity()
        if not self.has_work:
            assert not self._requests, "requests are left over"
            assert not self._generators, "generators are left over"

    def _guesses(self, standing: Standing) -> dict[int, list[int]] | None:
        if self._speculation is None or standing.num_at_prompt or standing.num_generating > MAX_SEQUENCES:
            return None
        return self._speculation.propose(self._scheduler.only_generating())

    def _run(self, schedule: Schedule, size: StepSize) -> StepOutput:
        """Raises as `Runner.run` does."""
        if self._crowding is None:
            return self._runner.run(schedule, self._generators)
        num_prompt_tokens = size.num_tokens + size.num_guesses - size.num_generating
        self._crowding.begin(self._pacer.expected(num_prompt_tokens, size.num_generating))
        try:
            return self._runner.run(schedule, self._generators)
        finally:
            self._crowding.end()

    def _learn(self, schedule: Schedule, output: StepOutput, size: StepSize, seconds: float) -> None:
        """Take note of what the step took, and of which guesses were right."""
        num_tokens, num_generating, num_guesses = size
        self._pacer.observe(num_tokens - num_generating, num_generating + num_guesses, seconds)
        self._recorder.observe_step(schedule.chunks, num_tokens + num_guesses, seconds)
        if self._speculation is None:
            return
        self._speculation.observe_step(num_tokens + num_guesses, seconds)
        for chunk in self._unconfirmed:
            new = output.tokens[chunk.sequence.id]
            num_right = max(0, len(new.token_ids) - 1)
            self._scheduler.confirm(chunk, num_right)
            is_over = new.is_end or new.stop_sequence is not None or bool(new.error)
            self._speculation.observe(chunk.sequence, len(chunk.draft), num_right, is_over)
        self._unconfirmed = []

    def _drop_guesses(self) -> None:
        """The step that had them has failed."""
        for chunk in self._unconfirmed:
            self._scheduler.confirm(chunk, 0)
        self._unconfirmed = []

    def _update(self, request: Request, sequence: Sequence, new: NewTokens, now: float) -> None:
        if new.error:
            self._fail(request, InternalError(f"No next token could be chosen: {new.error}."))
            return
        if request.echoes:
            self._deliver_echo(request, sequence)
        if not sequence.num_completion_tokens:
            self._note_prompt(request, sequence, now)
        num_tokens = len(new.token_ids)
        for token in new.token_ids:
            sequence.append(token)
        request.num_completion_tokens += num_tokens
        self._recorder.observe_tokens(sequence, num_tokens, now)
        reason = _finish_reason(sequence, new)
        text = new.text
        if reason is FinishReason.LENGTH:
            text += self._generators[sequence.id].detokenizer.flush()
        logprobs = new.logprobs[:-1] if new.is_end else new.logprobs
        if reason is not None:
            self._finish(request, sequence, EngineOutput(sequence.index, text, logprobs, reason, new.stop_sequence))
            self._complete_if_done(request, now)
            return
        if text or logprobs:
            self._deliver(request, EngineOutput(sequence.index, text, logprobs, num_tokens=_take_untold(sequence)))
        if sequence.shift is not None and sequence.is_full:
            self._scheduler.shift(sequence)

    def _note_prompt(self, request: Request, sequence: Sequence, now: float) -> None:
        """All of the sequence's prompt is there."""
        self._recorder.observe_prompt(sequence)
        if not request.first_token:
            request.first_token = now
            self._recorder.time_to_first_token.add(now - request.arrived)

    def _finish(self, request: Request, sequence: Sequence, output: EngineOutput) -> None:
        """Deliver a choice's last output."""
        self._forget(sequence)
        last = msgspec.structs.replace(
            output,
            num_tokens=_take_untold(sequence),
            is_context_full=output.finish_reason is FinishReason.LENGTH
            and sequence.num_completion_tokens < sequence.max_new_tokens,
            token_ids=tuple(token for token in sequence.all_token_ids if token >= 0) if request.wants_token_ids else (),
        )
        self._deliver(request, last)

    def _take_scores(self, request: Request, sequence: Sequence, scores: list[TokenLogprob]) -> None:
        request.echoes[sequence.index].logprobs += scores
        sequence.num_scored_tokens += len(scores)

    def _deliver_echo(self, request: Request, sequence: Sequence) -> None:
        echo = request.echoes.pop(sequence.index, None)
        if echo is not None:
            is_scored = self._generators[sequence.id].num_logprobs is not None
            logprobs = (None, *echo.logprobs) if is_scored else ()
            self._deliver(request, EngineEcho(sequence.index, echo.text, logprobs))

    def _end_without_answer(self, request: Request, chunk: Chunk, now: float) -> None:
        """Only the prompt was asked for. It is there when its last token is computed."""
        sequence = chunk.sequence
        if chunk.start + chunk.num_tokens == sequence.num_tokens:
            self._note_prompt(request, sequence, now)
            self._deliver_echo(request, sequence)
            self._finish(request, sequence, EngineOutput(sequence.index, "", finish_reason=FinishReason.LENGTH))
            self._complete_if_done(request, now)

    def _complete_if_done(self, request: Request, now: float) -> None:
        request.num_unfinished -= 1
        if request.num_unfinished == 0:
            usage = Usage(
                num_prompt_tokens=request.num_prompt_tokens,
                num_cached_tokens=request.num_cached_tokens,
                num_completion_tokens=request.num_completion_tokens,
            )
            self._deliver(request, EngineCompleted(usage, request.timings(now)))

    def _fail(self, request: Request, error: DmrError) -> None:
        self.abort(request)
        self._deliver(request, WireError.of(error))

    def _forget(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        self._requests.pop(sequence.id, None)
        self._generators.pop(sequence.id, None)
        self._recorder.forget(sequence)
        if self._speculation is not None:
            self._speculation.forget(sequence)

    def _make_room(self, schedule: Schedule) -> None:
        """The native memory is fuller than our count says (a model with extra needs): let one sequence wait."""
        if self._scheduler.make_room(schedule):
            self._unconfirmed = []
        else:
            self._recover(schedule, "the KV memory has no room for this sequence")

    def _recover(self, schedule: Schedule, reason: str) -> None:
        """Compute everything anew, and give up the requests that this has not helped.

        Where several sequences may be the cause, each is a suspect from here on: the scheduler lets one of them at a
        time join those that have since got a token, so that the next failure names the one that is to blame.
        """
        logger.error("a step failed: %s", reason)
        self._drop_guesses()
        self._scheduler.preempt_all()
        self._runner.forget_all()
        error = InternalError(f"The model could not be computed: {reason}.")
        sequences = [chunk.sequence for chunk in schedule.chunks]
        for sequence in [sequence for sequence in sequences if sequence.is_suspect] or sequences:
            # Counted for each sequence: on the way back to a bad place, step after step goes well.
            sequence.num_failed_steps += 1
            if sequence.num_failed_steps >= MAX_FAILED_STEPS and sequence.id in self._requests:
                self._fail(self._requests[sequence.id], error)


def _finish_reason(sequence: Sequence, new: NewTokens) -> FinishReason | None:
    if new.is_end or new.stop_sequence is not None:
        return FinishReason.STOP
    return FinishReason.LENGTH if sequence.is_done else None


def _take_untold(sequence: Sequence) -> int:
    """How many tokens the sequence has got since this was last asked."""
    num_tokens = sequence.num_completion_tokens - sequence.num_told_tokens
    sequence.num_told_tokens = sequence.num_completion_tokens
    return num_tokens
