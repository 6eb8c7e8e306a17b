"""From a request's bytes to sequences that can be scheduled: tokenize, check, make the native state. Any thread."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple, Protocol

from dmr.engine.engine import PendingEcho, Request
from dmr.engine.media_prompt import tokenize_media_prompt
from dmr.engine.media_reader import Medium
from dmr.engine.media_spans import MediaSpan, MediaSpans
from dmr.engine.model_runner import Generator
from dmr.engine.prompt_text import Vocabulary, expand, tokenize_prompt
from dmr.engine.sequence import Sequence
from dmr.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from dmr.types import Prompt
from dmr.wire import EngineDetokenize, EngineRequest, EngineText, EngineTokenize, EngineTokens

MAX_SEQUENCES_PER_REQUEST = 4096
MAX_SHIFTED_CONTEXTS = 10  # an answer without `max_tokens` that shifts its context ends after so many of them
NUM_KEPT_TOKENS = 4  # at the front of a prompt whose middle is cut out


Media = SequenceOf[Medium]


class Tokenizer(Vocabulary, Protocol):
    """What intake needs of a model runner."""

    context_size: int

    @property
    def infill_tokens(self) -> tuple[int, int, int]: ...
    def piece(self, token: int) -> bytes: ...
    def detokenize(self, token_ids: list[int]) -> str: ...
    def check_tokens(self, token_ids: tuple[int, ...], param: str = "prompt") -> list[int]: ...
    def make_generator(self, request: EngineRequest, seed: int, prompt: list[int]) -> Generator: ...


class PromptTokens(NamedTuple):
    token_ids: list[int]
    num_dropped: int  # so that the prompt fits
    spans: SequenceOf[MediaSpan] = ()  # where images and sounds stand


class Intake:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids = itertools.count()  # next() is atomic

    def prepare(self, message: EngineRequest, media: Media = ()) -> Request:
        """Everything that can be wrong with a request is found here, before it is queued.

        `media`: what its prompts name.

        Raises:
            InvalidRequest, ContextLengthExceeded, Unsupported
        """
        self._check(message)
        prompts = [self._tokens_of(message, prompt, media) for prompt in message.prompts]
        seed = secrets.randbits(32) if message.sampling.seed is None else message.sampling.seed
        sequences: list[Sequence] = []
        generators: list[Generator] = []
        echoes: dict[int, PendingEcho] = {}
        for number, prompt in enumerate(prompts):
            for choice in range(message.num_choices):
                index = len(sequences)
                sequences.append(self._sequence(message, index, prompt))
                # Choices of one prompt must differ; the first is what n=1 would give.
                choice_seed = (seed + choice) & 0xFFFFFFFF
                # Places of images are no tokens of the vocabulary.
                known = [token for token in prompt.token_ids if token >= 0] if prompt.spans else prompt.token_ids
                generators.append(self._tokenizer.make_generator(message, choice_seed, known))
                if message.echo:
                    echoes[index] = PendingEcho(self._echoed_text(message, number, prompt))
        return Request(
            sequences,
            generators,
            sum(len(prompt.token_ids) for prompt in prompts),
            message.num_choices,
            num_dropped_tokens=sum(prompt.num_dropped for prompt in prompts),
            echoes=echoes,
            wants_token_ids=message.return_token_ids,
        )

    def tokenize(self, message: EngineTokenize, media: Media = ()) -> EngineTokens:
        """Raises InvalidRequest: a place in the text names no literal or medium. Places of images are -1."""
        if media:
            prompt = tokenize_media_prompt(
                self._tokenizer,
                message.text,
                media,
                message.literals,
                add_special=message.add_special,
                parse_special=message.parse_special,
            )
            return EngineTokens(tuple(max(-1, token) for token in prompt.token_ids), ())
        tokens = tokenize_prompt(
            self._tokenizer, message.text, message.literals, message.add_special, message.parse_special
        )
        pieces = tuple(map(self._tokenizer.piece, tokens)) if message.with_pieces else ()
        return EngineTokens(tuple(tokens), pieces)

    def detokenize(self, message: EngineDetokenize) -> EngineText:
        """Raises InvalidRequest: an id is not in the vocabulary."""
        return EngineText(self._tokenizer.detokenize(self._tokenizer.check_tokens(message.token_ids, "tokens")))

    def _check(self, message: EngineRequest) -> None:
        """What can be seen without tokenizing."""
        if not message.prompts or message.num_choices < 1:
            raise InvalidRequest("A request needs at least one prompt and one choice.")
        if len(message.prompts) * message.num_choices > MAX_SEQUENCES_PER_REQUEST:
            raise InvalidRequest(f"A request can have {MAX_SEQUENCES_PER_REQUEST} choices at most.", param="n")
        if message.max_tokens is not None and message.max_tokens < 0:  # 0: the prompt is computed and kept
            raise InvalidRequest("max_tokens must be at least 0.", param="max_tokens")
        if message.shift is not None and message.shift < 0:
            raise InvalidRequest("The number of tokens to keep must not be negative.", param="shift")
        if message.thought_limit is not None and message.thought_limit.budget < 0:
            raise InvalidRequest("The thinking budget must not be negative.", param="thinking")
        if message.suffix is not None:
            self._check_infill(message)

    def _check_infill(self, message: EngineRequest) -> None:
        if min(self._tokenizer.infill_tokens) < 0:
            raise Unsupported("This model was not trained to fill in text before a suffix.", param="suffix")
        if message.echo:
            raise InvalidRequest("A prompt with a suffix cannot be echoed.", param="echo")
        if message.prefix_tokens:
            raise InvalidRequest("A suffix cannot follow the tokens of an earlier answer.", param="suffix")

    def _tokens_of(self, message: EngineRequest, prompt: Prompt, media: Media) -> PromptTokens:
        if media and not isinstance(prompt, str):
            raise Unsupported("Prompts of tokens have no images or sounds.", param="prompt")
        if media and isinstance(prompt, str):
            return self._tokens_with_media(message, prompt, media)
        if message.suffix is not None:
            return self._infill(message, prompt, message.suffix)
        tokenizer = self._tokenizer
        tokens = tokenizer.check_tokens(message.prefix_tokens, "prefix_tokens")
        if isinstance(prompt, str):
            more = tokenize_prompt(tokenizer, prompt, message.literals)
            # The earlier tokens have begun the text.
            tokens += more[1:] if tokens and tokenizer.begin_token in more[:1] else more
        else:
            tokens += tokenizer.check_tokens(prompt)
        if not tokens:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        limit = self._limit(message, len(tokens))
        front = min(_num_kept(tokenizer, message.shift, tokens, NUM_KEPT_TOKENS), limit // 2)
        num_dropped = max(0, len(tokens) - limit)
        return PromptTokens([*tokens[:front], *tokens[front + num_dropped :]], num_dropped)

    def _tokens_with_media(self, message: EngineRequest, prompt: str, media: Media) -> PromptTokens:
        if message.suffix is not None or message.echo:
            raise Unsupported("Prompts with images or sounds have no suffix and are not echoed.", param="prompt")
        before = self._tokenizer.check_tokens(message.prefix_tokens, "prefix_tokens")
        placed = tokenize_media_prompt(self._tokenizer, prompt, media, message.literals, add_special=not before)
        tokens = before + placed.token_ids
        if not tokens:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        if len(tokens) >= self._context_size(message):
            raise ContextLengthExceeded(len(tokens), self._context_size(message))
        return PromptTokens(tokens, 0, [span._replace(start=span.start + len(before)) for span in placed.spans])

    def _infill(self, message: EngineRequest, prompt: Prompt, suffix: str) -> PromptTokens:
        """[before prefix] prefix [before suffix] suffix [to be filled in]; both are code, without control tokens."""
        tokenizer = self._tokenizer
        before_prefix, before_suffix, middle = tokenizer.infill_tokens
        begin = [tokenizer.begin_token] if tokenizer.begin_token >= 0 else []
        front = (
            tokenize_prompt(tokenizer, prompt, message.literals, add_special=False, parse_special=False)
            if isinstance(prompt, str)
            else tokenizer.check_tokens(prompt)
        )
        back = tokenizer.tokenize(suffix, add_special=False, parse_special=False)
        num_marks = len(begin) + 3
        room = self._limit(message, len(front) + len(back) + num_marks) - num_marks
        if room < 1:
            raise ContextLengthExceeded(len(front) + len(back) + num_marks, self._context_size(message))
        # What stands next to the gap tells most, and three quarters of that stand before it.
        num_back = min(len(back), max(room // 4, room - len(front)))
        num_front = min(len(front), room - num_back)
        num_dropped = len(front) + len(back) - num_front - num_back
        front = front[len(front) - num_front :]
        return PromptTokens([*begin, before_prefix, *front, before_suffix, *back[:num_back], middle], num_dropped)

    def _context_size(self, message: EngineRequest) -> int:
        size = self._tokenizer.context_size
        return size if message.context_size is None else max(2, min(size, message.context_size))

    def _limit(self, message: EngineRequest, num_tokens: int) -> int:
        """How many of a prompt's tokens may stay. Raises ContextLengthExceeded: not all, and nothing may be cut."""
        context_size = self._context_size(message)
        if num_tokens < context_size:
            return num_tokens
        if not message.truncate:
            raise ContextLengthExceeded(num_tokens, context_size)
        room = context_size // 4
        return context_size - max(1, room if message.max_tokens is None else min(room, message.max_tokens))

    def _sequence(self, message: EngineRequest, index: int, tokens: PromptTokens) -> Sequence:
        context_size, max_tokens = self._context_size(message), message.max_tokens
        prompt = tokens.token_ids
        shift = None if tokens.spans else message.shift  # an image would be cut in the middle
        if shift is not None:
            shift = _num_kept(self._tokenizer, shift, prompt)
            max_tokens = MAX_SHIFTED_CONTEXTS * context_size if max_tokens is None else max_tokens
        max_length = context_size
        if max_tokens is not None and shift is None:
            max_length = min(len(prompt) + max_tokens, context_size)
        return Sequence(
            next(self._ids),
            index,
            list(prompt),
            max_length,
            max_new_tokens=context_size if max_tokens is None else max_tokens,
            shift=shift,
            is_scored=message.echo and message.num_logprobs is not None,
            client=message.client,
            weight=message.weight,
            media=MediaSpans(tokens.spans) if tokens.spans else None,
        )

    def _echoed_text(self, message: EngineRequest, number: int, tokens: PromptTokens) -> str:
        prompt = message.prompts[number]
        if isinstance(prompt, str) and not message.prefix_tokens and not tokens.num_dropped:
            return expand(prompt, message.literals).text
        return self._tokenizer.detokenize(tokens.token_ids)


def _num_kept(tokenizer: Tokenizer, shift: int | None, tokens: list[int], otherwise: int = 0) -> int:
    """How many tokens stay at the front, the begin token with them."""
    begins = tokenizer.begin_token >= 0 and tokens[:1] == [tokenizer.begin_token]
    return (otherwise if shift is None else shift) + (1 if begins else 0)
