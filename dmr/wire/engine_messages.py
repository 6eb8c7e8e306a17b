"""What is asked of an engine and what it answers: frontend and engine, engine and manager."""

from __future__ import annotations

from typing import Literal, Union

import msgspec

from dmr.config import EngineSettings
from dmr.types import FinishReason, Prompt, SamplingParams, Statistics, Timings, TokenLogprob, Usage
from dmr.wire.frames import Frame, WireError


class EngineSpec(Frame, frozen=True):
    """What an engine process is started with."""

    reference: str
    weights: tuple[str, ...]  # paths, shards in order
    chat_template: str | None  # path of a template that overrides the file's own
    socket: str
    settings: EngineSettings
    log_level: str = "info"
    embedding: EngineSettings | None = None  # for vectors of texts; None = as `settings`
    reranking: EngineSettings | None = None
    reserved_bytes: int = 0  # of the host's free memory, that other engines are going to take
    projector: str | None = None  # path of what turns pictures and sounds into places of a prompt


class EngineInfo(Frame, frozen=True):
    """What a loaded engine tells about itself: enough to render prompts without the weights."""

    description: str
    context_size: int  # the most tokens one sequence can have
    chat_template: str  # empty = the model has none
    bos: str
    eos: str
    adds_bos: bool
    trained_context_size: int = 0
    embedding_size: int = 0
    num_vocabulary: int = 0
    capabilities: tuple[str, ...] = ("generate",)  # of "generate", "embed", "rerank", "infill", "vision", "audio"
    control_tokens: tuple[str, ...] = ()  # texts that would be read as control tokens inside of a prompt
    full_context_size: int = 0  # what `context_size` would be if there were more memory; 0 = it is not less


class GrammarSpec(Frame, frozen=True):
    """A grammar, and what starts it if it is lazy: (kind, text), kind "word", "pattern" or "full_pattern"."""

    text: str
    prefill: str = ""  # what it must have taken before the first token
    lazy: bool = False
    triggers: tuple[tuple[str, str], ...] = ()


class ThoughtLimit(Frame, frozen=True):
    """Ends a thought after so many tokens, by making the model write `end`."""

    budget: int
    start: str  # the tag that begins a thought
    end: str  # the tag that ends it
    is_open: bool  # the prompt has begun the thought already


# In a prompt's text, LITERAL_OPEN + str(i) + LITERAL_CLOSE stands for `literals[i]`, which is tokenized as plain text:
# whatever a user types is never read as a control token. Both are noncharacters: no text of anybody's has them.
LITERAL_OPEN = "\ufdd0"
LITERAL_CLOSE = "\ufdd1"


# In the same way, MEDIA_OPEN + str(i) + MEDIA_CLOSE stands for `media[i]`.
MEDIA_OPEN = "\ufdd2"
MEDIA_CLOSE = "\ufdd3"


class EngineMedia(msgspec.Struct, frozen=True):
    """A picture or a sound, as a file. `is_small`: of a picture no more is to be seen than a small one shows."""

    kind: Literal["image", "audio"]
    data: bytes
    is_small: bool = False


class EngineRequest(Frame, frozen=True, tag="request"):
    prompts: tuple[Prompt, ...]
    sampling: SamplingParams
    num_choices: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    num_logprobs: int | None = None
    grammar: GrammarSpec | None = None
    preserved_tokens: tuple[str, ...] = ()  # control tokens whose text is wanted
    client: str = ""
    weight: float = 1.0  # the client's share of the engine beside others; above 0
    literals: tuple[str, ...] = ()
    prefix_tokens: tuple[int, ...] = ()
    suffix: str | None = None
    echo: bool = False
    truncate: bool = False
    shift: int | None = None
    return_token_ids: bool = False
    thought_limit: ThoughtLimit | None = None
    context_size: int | None = None  # the request is treated as if the context held no more
    media: tuple[EngineMedia, ...] = ()
    is_whole: bool = False  # its messages may come many at a time


class EngineEmbed(Frame, frozen=True, tag="embed"):
    """Vectors of length 1 unless `normalize` is false."""

    inputs: tuple[Prompt, ...]
    truncate: bool = False
    max_tokens: int | None = None  # of one input; None = what the model takes
    normalize: bool = True


class EngineRerank(Frame, frozen=True, tag="rerank"):
    """How well the text of each pair answers the query whose index stands before it."""

    queries: tuple[str, ...]  # each of them once, however many texts there are for it
    pairs: tuple[tuple[int, str], ...]
    truncate: bool = False


class EngineTokenize(Frame, frozen=True, tag="tokenize"):
    text: str
    literals: tuple[str, ...] = ()
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False
    media: tuple[EngineMedia, ...] = ()


class EngineDetokenize(Frame, frozen=True, tag="detokenize"):
    token_ids: tuple[int, ...]


class EngineMeasure(Frame, frozen=True, tag="measure"):
    """What the engine has counted. Answered at once, also while a step runs."""


class EngineOpenChannel(Frame, frozen=True, tag="channel"):
    """This connection is for the answers that are moved to it, under a name that no other has.

    It is answered by an empty list when it may be used; then come lists of (number, message).
    """

    name: str


class EngineMove(Frame, frozen=True, tag="move"):
    """Behind a request: say the rest on that channel, under a number that is the caller's choice.

    Answered by EngineMoved; or by nothing, and the answer goes on here, if it has ended or nobody knows the channel.
    """

    channel: str
    number: int


EngineQuery = Union[
    EngineRequest, EngineEmbed, EngineRerank, EngineTokenize, EngineDetokenize, EngineMeasure, EngineOpenChannel
]


class EngineStarted(Frame, frozen=True, tag="started"):
    num_prompt_tokens: int
    num_dropped_tokens: int = 0


class EngineEcho(Frame, frozen=True, tag="echo"):
    """The prompt of one choice, before its first output."""

    index: int
    text: str
    logprobs: tuple[TokenLogprob | None, ...] = ()


class EngineOutput(Frame, frozen=True, tag="output"):
    """More of one choice. `finish_reason` is set in its last output."""

    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop_sequence: str | None = None
    num_tokens: int = 1  # that this text took: a character may need several
    is_context_full: bool = False
    token_ids: tuple[int, ...] = ()  # prompt and answer, with the last output, if they were asked for


class EngineCompleted(Frame, frozen=True, tag="completed"):
    usage: Usage
    timings: Timings


class EngineMoved(Frame, frozen=True, tag="moved"):
    """The last message here: the rest comes on the channel that was asked for."""


class EngineVectors(Frame, frozen=True, tag="vectors"):
    """32-bit floats, little-endian."""

    vectors: tuple[bytes, ...]
    num_tokens: tuple[int, ...]
    timings: Timings = Timings()


class EngineScores(Frame, frozen=True, tag="scores"):
    scores: tuple[float, ...]
    num_tokens: int


class EngineTokens(Frame, frozen=True, tag="tokens"):
    ids: tuple[int, ...]
    pieces: tuple[bytes, ...] = ()


class EngineText(Frame, frozen=True, tag="text"):
    text: str


class EngineStatistics(Frame, frozen=True, tag="statistics"):
    statistics: Statistics | None = None  # None = it generates no text


EngineMessage = Union[EngineStarted, EngineEcho, EngineOutput, EngineCompleted, WireError]
EngineReply = Union[EngineVectors, EngineScores, EngineTokens, EngineText, EngineStatistics, WireError]


def is_last(message: EngineMessage) -> bool:
    """Whether it is the last one of its request."""
    return isinstance(message, (EngineCompleted, WireError))


class LoadProgress(Frame, frozen=True, tag="progress"):
    fraction: float


class EngineReady(Frame, frozen=True, tag="ready"):
    info: EngineInfo


class EngineBeat(Frame, frozen=True, tag="beat"):
    """An engine that is ready says every `BEAT_INTERVAL` that it lives."""


BEAT_INTERVAL = 1.0  # seconds

EngineStatus = Union[LoadProgress, EngineReady, EngineBeat, WireError]

engine_query_decoder = msgspec.msgpack.Decoder(EngineQuery)
engine_move_decoder = msgspec.msgpack.Decoder(EngineMove)
engine_message_decoder = msgspec.msgpack.Decoder(EngineMessage)
engine_moving_decoder = msgspec.msgpack.Decoder(Union[EngineMessage, EngineMoved])
engine_channel_decoder = msgspec.msgpack.Decoder(list[tuple[int, EngineMessage]])
engine_reply_decoder = msgspec.msgpack.Decoder(EngineReply)
engine_status_decoder = msgspec.msgpack.Decoder(EngineStatus)
engine_spec_decoder = msgspec.msgpack.Decoder(EngineSpec)
