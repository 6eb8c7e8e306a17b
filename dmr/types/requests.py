"""What is asked of a model."""

from __future__ import annotations

from typing import Union

from dmr.types.chat import ChatInput
from dmr.types.value import Value

Prompt = Union[str, tuple[int, ...]]


class TextInput(Value, frozen=True, tag="text"):
    """Raw prompts, each as text or as token ids. Choice `i` of prompt `p` has index `p * num_choices + i`."""

    prompts: tuple[Prompt, ...]
    suffix: str | None = None  # fill in between prompt and suffix; needs a model that was trained for it
    echo: bool = False  # give the prompt back first; with log probabilities if they are asked for
    truncate: bool = False  # cut the middle of a prompt that is too long instead of refusing it


class SamplingParams(Value, frozen=True):
    """How the next token is chosen. Defaults and order are those of llama.cpp's common sampler."""

    order: tuple[str, ...] = (  # stages, by llama.cpp's names; "adaptive_p" and "infill" may be added
        "penalties",
        "dry",
        "top_n_sigma",
        "top_k",
        "typ_p",
        "top_p",
        "min_p",
        "xtc",
        "temperature",
    )
    temperature: float = 0.8  # 0 = always the likeliest token
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40  # 0 = off
    top_p: float = 0.95  # 1 = off
    min_p: float = 0.05  # 0 = off
    typical_p: float = 1.0  # 1 = off
    top_n_sigma: float = -1.0  # negative = off
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_last_n: int = 64  # tokens looked back at by the three penalties; -1 = the whole context
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0  # 0, 1 or 2
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0  # negative = off
    adaptive_decay: float = 0.9
    min_keep: int = 0
    seed: int | None = None  # None = a fresh one for each request
    logit_bias: tuple[tuple[int, float], ...] = ()
    ignore_eos: bool = False


class ResponseFormat(Value, frozen=True):
    """A constraint on the answer: a JSON Schema as text, or a GBNF grammar. One of the two is empty.

    With `strict`, a schema that cannot be enforced word for word is refused; without, as much as can be is enforced
    and `Finished.schema_violations` tells what the answer breaks.
    """

    json_schema: str = ""
    grammar: str = ""
    strict: bool = False


class GenerateRequest(Value, frozen=True):
    """All that the engine needs to know to answer. Whether the answer is streamed is not its business."""

    model: str
    input: Union[ChatInput, TextInput]
    sampling: SamplingParams = SamplingParams()
    # What the client itself has said: fields of `sampling`, "max_tokens", "stop", "shift", "context_size"
    # and "thinking" (whether, or how much, the model is to think).
    given: frozenset[str] = frozenset()
    num_choices: int = 1
    best_of: int | None = None  # compute this many choices and give the `num_choices` likeliest
    max_tokens: int | None = None  # None = as many as the context holds; 0 = only look at the prompt
    stop: tuple[str, ...] = ()
    num_logprobs: int | None = None  # None = none; k = the chosen token's and those of the k likeliest
    response_format: ResponseFormat | None = None
    prefix_tokens: tuple[int, ...] = ()  # stand before the prompt: an earlier answer's `Finished.token_ids`
    return_token_ids: bool = False  # fill `Finished.token_ids`
    shift: int | None = None  # when the context is full, go on: keep this many tokens at the front, drop old ones
    context_size: int | None = None  # tokens of context: the model gets them if it can, the request no more of them
    keep_alive: float | None = None  # seconds the model stays loaded afterwards; negative = for ever
    client: str = ""  # who asks, for fairness between clients
    weight: float = 1.0  # that one's share of an engine beside others


class EmbedRequest(Value, frozen=True):
    """Texts to vectors of length 1, in order."""

    model: str
    inputs: tuple[Prompt, ...]
    dimensions: int | None = None  # the first so many, made length 1 again (Matryoshka); None = all
    normalize: bool = True  # False = as the model gives them
    truncate: bool = False  # cut what is too long instead of refusing it
    context_size: int | None = None  # tokens a text may have; None = the model's own limit
    keep_alive: float | None = None
    client: str = ""


class RerankRequest(Value, frozen=True):
    """How well the second text of each pair answers the first."""

    model: str
    pairs: tuple[tuple[str, str], ...]
    truncate: bool = False
    keep_alive: float | None = None
    client: str = ""


class TokenizeRequest(Value, frozen=True):
    model: str
    text: str
    add_special: bool = False  # begin and end tokens as the model wants them
    parse_special: bool = True  # "<|im_end|>" is that token, not text
    with_pieces: bool = False  # also the bytes of each token
    keep_alive: float | None = None


class DetokenizeRequest(Value, frozen=True):
    model: str
    token_ids: tuple[int, ...]
    keep_alive: float | None = None
