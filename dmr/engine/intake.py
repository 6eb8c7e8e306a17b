"""From a request's bytes to sequences that can be scheduled: tokenize, check, make the native state. Any thread."""

from __future__ import annotations

import itertools
import secrets
from typing import Protocol

from dmr.engine.engine import Request
from dmr.engine.model_runner import Generator
from dmr.engine.sequence import Sequence
from dmr.errors import ContextLengthExceeded, InvalidRequest
from dmr.wire import EngineRequest

MAX_SEQUENCES_PER_REQUEST = 4096


class Tokenizer(Protocol):
    """What intake needs of a model runner."""

    context_size: int

    def tokenize(self, text: str) -> list[int]: ...
    def check_tokens(self, token_ids: tuple[int, ...]) -> list[int]: ...
    def make_generator(self, request: EngineRequest, seed: int, prompt: list[int]) -> Generator: ...


class Intake:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids = itertools.count()  # next() is atomic

    def prepare(self, message: EngineRequest) -> Request:
        """Everything that can be wrong with a request is found here, before it is queued.

        Raises:
            InvalidRequest, ContextLengthExceeded
        """
        self._check_numbers(message)
        prompts = [self._tokens_of(prompt) for prompt in message.prompts]
        seed = secrets.randbits(32) if message.sampling.seed is None else message.sampling.seed
        sequences: list[Sequence] = []
        generators: list[Generator] = []
        for prompt in prompts:
            for choice in range(message.num_choices):
                index = len(sequences)
                sequences.append(Sequence(next(self._ids), index, list(prompt), self._max_length(message, prompt)))
                # Choices of one prompt must differ; the first is what n=1 would give.
                generators.append(self._tokenizer.make_generator(message, (seed + choice) & 0xFFFFFFFF, prompt))
        return Request(sequences, generators, sum(map(len, prompts)), message.num_choices)

    def _check_numbers(self, message: EngineRequest) -> None:
        if not message.prompts or message.num_choices < 1:
            raise InvalidRequest("A request needs at least one prompt and one choice.")
        if len(message.prompts) * message.num_choices > MAX_SEQUENCES_PER_REQUEST:
            raise InvalidRequest(f"A request can have {MAX_SEQUENCES_PER_REQUEST} choices at most.", param="n")
        if message.max_tokens is not None and message.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1.", param="max_tokens")

    def _tokens_of(self, prompt: str | tuple[int, ...]) -> list[int]:
        tokenizer = self._tokenizer
        tokens = tokenizer.tokenize(prompt) if isinstance(prompt, str) else tokenizer.check_tokens(prompt)
        if not tokens:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        if len(tokens) >= self._tokenizer.context_size:
            raise ContextLengthExceeded(len(tokens), self._tokenizer.context_size)
        return tokens

    def _max_length(self, message: EngineRequest, prompt: list[int]) -> int:
        if message.max_tokens is None:
            return self._tokenizer.context_size
        return min(len(prompt) + message.max_tokens, self._tokenizer.context_size)
