"""llama.cpp for dmr: models, contexts, samplers, chat templates. What everything does: csrc/core/*.h.

Wrong arguments raise ValueError (TypeError when the type is wrong); whatever else fails raises an `Error`. Every call
that can take time releases the GIL. Objects may be used from several threads: each use waits for the one before it.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import numpy
import numpy.typing

class Error(RuntimeError):
    """Base of what the native code raises; also raised for an object that was closed."""

class LoadError(Error):
    """A model or a context that cannot be made from what was given."""

class Cancelled(Error):
    """The progress function asked the load to stop."""

class DecodeError(Error):
    """The back end failed; what the memory holds afterwards must be asked anew."""

class GrammarError(Error):
    """A grammar or JSON Schema that cannot be used, or a token that a grammar cannot take."""

class TemplateError(Error):
    """A chat template that cannot be parsed, or that refuses these messages."""

class MediaError(Error):
    """A picture or sound that cannot become a part of a prompt."""

# --- the build -------------------------------------------------------------------------------------------------------

def build_info() -> dict[str, str | list[str]]:
    """version, flavour, compiler, llama_cpp_commit, llama_cpp_version; backends and cpu_features are lists."""

def devices() -> list[dict[str, str | int]]:
    """name, description, kind ("cpu", "gpu", "igpu", "accelerator"), free_bytes, total_bytes of each device."""

def use_own_kernels(is_used: bool) -> bool:
    """Compute what csrc/cpu has kernels for with them, as from the start, or with ggml's.

    Between two graphs of this process. False: this build has none.
    """

def num_own_operations() -> int:
    """How many operations they computed in this process; any thread."""

def take_log(timeout: float = 0.0) -> list[tuple[int, str]]:
    """Lines of ggml and llama.cpp since the last call as (level, line); waits up to `timeout` seconds (0..3600)."""

def set_log_level(level: int) -> None:
    """Drop lines below `level`: 1 debug, 2 info, 3 warning, 4 error."""

def num_operations() -> int:
    """Operations of graphs that were computed in this process; any thread. A device counts few of its own."""

# --- model -----------------------------------------------------------------------------------------------------------

class Model:
    """Weights and vocabulary of a GGUF model. Any thread. Token ids run from 0 to num_vocabulary - 1; -1 = none."""

    def __init__(
        self,
        paths: Sequence[str],
        *,
        num_gpu_layers: int = -1,
        use_mmap: bool = True,
        use_mlock: bool = False,
        use_direct_io: bool = False,
        check_tensors: bool = False,
        vocab_only: bool = False,
        repack: bool = True,
        use_host_buffers: bool = True,
        split_mode: str = "layer",
        main_gpu: int = 0,
        tensor_split: Sequence[float] = (),
        devices: Sequence[str] = (),
        num_cpu_expert_layers: int = 0,
        progress: Callable[[float], bool | None] | None = None,
    ) -> None:
        """Load one file, or all shards in order; `progress(0..1)` returns False to cancel.

        Raises:
            LoadError: with llama.cpp's own reason.
            Cancelled: `progress` returned False. What `progress` raises is raised here.
        """

    def close(self) -> None:
        """Give the model up; contexts made from it keep it alive."""

    @property
    def description(self) -> str: ...
    @property
    def metadata(self) -> dict[str, str]:
        """The GGUF file's key-value pairs as text."""

    @property
    def chat_template(self) -> str:
        """Empty = the file has none."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def num_parameters(self) -> int: ...
    @property
    def context_length(self) -> int:
        """Tokens, as trained."""

    @property
    def embedding_length(self) -> int: ...
    @property
    def vector_length(self) -> int:
        """Numbers of an embedding; mostly `embedding_length`."""

    @property
    def num_layers(self) -> int: ...
    @property
    def num_vocabulary(self) -> int: ...
    @property
    def has_encoder(self) -> bool: ...
    @property
    def has_decoder(self) -> bool: ...
    @property
    def has_classifier(self) -> bool:
        """Whether there is a head that scores. Reads the headers of the model's files."""

    @property
    def is_recurrent(self) -> bool: ...
    @property
    def is_hybrid(self) -> bool: ...
    @property
    def sliding_window(self) -> int:
        """Tokens; 0 = none."""

    @property
    def adds_bos(self) -> bool: ...
    @property
    def adds_eos(self) -> bool: ...
    @property
    def adds_separator(self) -> bool: ...
    @property
    def bos(self) -> int: ...
    @property
    def eos(self) -> int: ...
    @property
    def eot(self) -> int: ...
    @property
    def separator(self) -> int:
        """What stands between the two texts of a pair."""

    @property
    def fim_prefix(self) -> int:
        """What stands before the text in front of a gap that is to be filled in."""

    @property
    def fim_suffix(self) -> int: ...
    @property
    def fim_middle(self) -> int: ...
    @property
    def fim_repository(self) -> int: ...
    @property
    def fim_separator(self) -> int: ...
    @property
    def control_tokens(self) -> list[str]:
        """The texts that `tokenize` reads as one token with `parse_special`, and as plain text without."""

    @property
    def end_tokens(self) -> list[int]:
        """All tokens that end a generation."""

    def is_end(self, token: int) -> bool:
        """Raises ValueError for a token that is not in the vocabulary."""

    def is_control(self, token: int) -> bool:
        """Raises ValueError for a token that is not in the vocabulary."""

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """`add_special`: begin and end tokens as the model wants them. `parse_special`: "<|im_end|>" is that token."""

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of one token; control tokens give nothing unless `special`. Raises ValueError."""

    def detokenize(self, tokens: Sequence[int], remove_special: bool = False, special: bool = False) -> bytes:
        """The bytes of all tokens, without a begin and an end token if `remove_special`. Raises ValueError."""

# --- context ---------------------------------------------------------------------------------------------------------

class Batch:
    """The tokens of one decode, of any mix of sequences. Checked when it is decoded."""

    def __init__(self) -> None: ...
    def add(
        self,
        sequence: int,
        tokens: Sequence[int],
        first_position: int,
        output_all: bool = False,
        output_last: bool = True,
        drafts: Sequence[int] = [],
    ) -> int:
        """Append consecutive tokens of one sequence, and guesses at what follows them; returns the index of the last
        certain one. Each guess has an output."""

    def clear(self) -> None: ...
    def __len__(self) -> int: ...

class RopeOptions:
    """Positions in the rotary embedding; defaults and meanings in csrc/core/context_options.h."""

    def __init__(self) -> None: ...
    scaling: str
    freq_base: float
    freq_scale: float
    yarn_orig_ctx: int
    yarn_ext_factor: float
    yarn_attn_factor: float
    yarn_beta_fast: float
    yarn_beta_slow: float

class ContextOptions:
    """How a context is made; defaults and meanings in csrc/core/context_options.h."""

    def __init__(self) -> None: ...
    context_size: int
    max_batch: int
    max_sequences: int
    max_outputs: int
    unified: bool
    embeddings: bool
    pooling: str
    flash_attention: str
    key_type: str
    value_type: str
    offload_cells: bool
    offload_operations: bool
    num_threads: int
    num_batch_threads: int
    thread_polling: int
    rope: RopeOptions

class DecodeStatus:
    """DONE; NO_ROOM: nothing was changed; ABORTED: each sequence of the batch holds what it held before, or nothing at
    all where the context's `can_truncate` is false."""

    DONE: ClassVar[DecodeStatus]
    NO_ROOM: ClassVar[DecodeStatus]
    ABORTED: ClassVar[DecodeStatus]
    __members__: ClassVar[dict[str, DecodeStatus]]
    def __init__(self, value: int) -> None: ...
    def __int__(self) -> int: ...
    def __index__(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class ContextCounters:
    @property
    def num_decodes(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_reused_graphs(self) -> int: ...

class MediaPiece:
    """Tokens of text, or places that take the vectors of `Projector.encode`."""

    @property
    def tokens(self) -> list[int]:
        """Empty for places."""

    @property
    def num_places(self) -> int:
        """KV cells that it takes; 0 for text."""

    @property
    def num_positions(self) -> int:
        """By which what follows moves on: less than `num_places` under M-RoPE."""

    @property
    def is_causal(self) -> bool:
        """Else all places are computed in one go, and see each other."""

    def without_content(self) -> MediaPiece:
        """The same without the pixels or samples that `Projector.encode` needs."""

class MediaVectors:
    """One row of `width` floats for each place."""

    @property
    def num_places(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    def values(self) -> numpy.typing.NDArray[numpy.float32]:
        """A copy, [num_places, width]."""

class Projector:
    """An encoder of pictures and sounds beside a text model. To prepare is safe on any thread."""

    def __init__(
        self,
        path: str,
        model: Model,
        *,
        num_threads: int = 1,
        use_gpu: bool = True,
        min_tokens: int = -1,
        max_tokens: int = -1,
        flash_attention: bool = True,
    ) -> None:
        """`min_tokens`, `max_tokens`: of one picture; -1 = as the file says. Raises LoadError: also where it was made
        for another text model.
        """

    @property
    def sees(self) -> bool: ...
    @property
    def hears(self) -> bool: ...
    @property
    def uses_mrope(self) -> bool: ...
    @property
    def sample_rate(self) -> int:
        """Hz of sounds; -1 = it does not hear."""

    def prepare_image(self, width: int, height: int, pixels: bytes) -> list[MediaPiece]:
        """Pieces of a prompt for RGB pixels, row by row. Raises ValueError (another number of bytes), MediaError."""

    def prepare_sound(self, file: bytes, max_seconds: int) -> list[MediaPiece]:
        """Pieces of a prompt for a WAV, MP3 or FLAC file. Raises MediaError."""

    def encode(self, piece: MediaPiece, between: Callable[[], object] | None = None) -> MediaVectors:
        """`between` is called whenever some hundredths of a second were computed: others may compute meanwhile.

        Raises ValueError (a piece of text), Cancelled after `abort`, DecodeError, and what `between` raises.
        """

    @property
    def next_encode(self) -> int: ...
    def abort(self, encode: int) -> None:
        """Stop the encode with this number, also one that has not begun. Any thread."""

    def close(self) -> None: ...

class Context:
    """KV memory and compute buffers over a model. Positions are counted in tokens, [begin, end); end < 0 = to the end.

    Every method raises ValueError for a sequence that is not in 0..max_sequences - 1.
    """

    def __init__(self, model: Model, options: ContextOptions) -> None:
        """Raises LoadError (no memory, types that do not go together), ValueError (an option out of range)."""

    def close(self) -> None:
        """Free the memory; waits for a decode that runs."""

    @property
    def context_size(self) -> int:
        """Cells in all."""

    @property
    def sequence_context_size(self) -> int:
        """Cells that one sequence can have."""

    @property
    def max_batch(self) -> int: ...
    @property
    def max_sequences(self) -> int: ...
    @property
    def max_outputs(self) -> int: ...
    @property
    def has_memory(self) -> bool:
        """False for encoders such as BERT."""

    @property
    def can_shift(self) -> bool: ...
    @property
    def can_truncate(self) -> bool:
        """False for recurrent states: they cannot go back by a few tokens."""

    def decode(self, batch: Batch) -> DecodeStatus:
        """Run the batch as one pass. Raises ValueError (nothing was changed) and DecodeError."""

    def decode_media(
        self, sequence: int, first_position: int, piece: MediaPiece, vectors: MediaVectors, begin: int, end: int
    ) -> DecodeStatus:
        """Compute places [begin, end) of a piece whose first one is at `first_position`; they have no output.

        Raises ValueError (nothing was changed: not where the sequence ends, a part of a piece that is not causal, more
        than `max_batch` places, foreign vectors) and DecodeError.
        """

    def logits(self, index: int) -> numpy.typing.NDArray[numpy.float32]:
        """A copy of the row [num_vocabulary] of a place of the last batch. Raises ValueError: it had no output."""

    def embedding(self, index: int) -> numpy.typing.NDArray[numpy.float32]:
        """A copy of the row [vector_length], pooling "none" only. Raises ValueError."""

    def sequence_embedding(self, sequence: int) -> numpy.typing.NDArray[numpy.float32]:
        """The pooled vector [vector_length], or the scores of a "rank" model. Raises ValueError."""

    def remove(self, sequence: int, begin: int = 0, end: int = -1) -> bool:
        """Forget positions. False: this memory cannot remove a part (recurrent)."""

    def copy(self, source: int, target: int, begin: int = 0, end: int = -1) -> None:
        """Let a sequence that is empty from `begin` on share positions of another. Raises ValueError: it is not, or a
        part of a sequence when streams are separate."""

    def keep(self, sequence: int) -> None:
        """Forget all other sequences."""

    def shift(self, sequence: int, begin: int, end: int, delta: int) -> None:
        """Move positions by `delta`; cells that a copy shares move for both. Raises ValueError: they cannot be."""

    def clear(self) -> None:
        """Forget everything."""

    def position_min(self, sequence: int) -> int:
        """-1 = empty."""

    def position_max(self, sequence: int) -> int:
        """-1 = empty."""

    def save(self, sequence: int) -> bytes:
        """The sequence's state, for a context with the same model and layout."""

    def restore(self, sequence: int, state: bytes) -> bool:
        """Put a saved state into a sequence. False = no room, the sequence is empty then. Raises ValueError: the bytes
        are damaged or foreign, nothing was changed."""

    def set_threads(self, num_threads: int) -> None:
        """Raises ValueError: not in 1..ContextOptions.num_threads."""

    @property
    def next_decode(self) -> int:
        """The number that the next decode (or step) will have. Any thread."""

    def abort(self, decode: int | None = None) -> None:
        """Stop the decode with this number, even before it begins; without a number, the one that runs now. One that
        is over is left alone, and so are all others. Any thread. A device, other than a CPU, goes on to its end."""

    @property
    def counters(self) -> ContextCounters: ...

# --- sampling --------------------------------------------------------------------------------------------------------

class TriggerKind:
    """WORD: plain text. PATTERN: a regular expression anywhere. FULL_PATTERN: over the whole text so far."""

    WORD: ClassVar[TriggerKind]
    PATTERN: ClassVar[TriggerKind]
    FULL_PATTERN: ClassVar[TriggerKind]
    __members__: ClassVar[dict[str, TriggerKind]]
    def __init__(self, value: int) -> None: ...
    def __int__(self) -> int: ...
    def __index__(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class GrammarTrigger:
    """What starts a lazy grammar."""

    def __init__(self, kind: TriggerKind, value: str) -> None: ...
    @property
    def kind(self) -> TriggerKind: ...
    @property
    def value(self) -> str: ...

class SamplerOptions:
    """How tokens are chosen; defaults and meanings in csrc/core/sampler.h."""

    def __init__(self) -> None: ...
    order: list[str]
    temperature: float
    dynatemp_range: float
    dynatemp_exponent: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: list[str]
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    adaptive_target: float
    adaptive_decay: float
    min_keep: int
    seed: int
    logit_bias: list[tuple[int, float]]
    ignore_eos: bool
    grammar: str
    grammar_prefill: str
    grammar_lazy: bool
    grammar_triggers: list[GrammarTrigger]
    num_logprobs: int
    thought_budget: int
    thought_start: str
    thought_end: str
    thought_is_open: bool

class TokenProbability:
    @property
    def token(self) -> int: ...
    @property
    def logprob(self) -> float:
        """Natural logarithm, under the model's own distribution."""

class Sampled:
    @property
    def token(self) -> int: ...
    @property
    def logprob(self) -> float:
        """Of the token, under the model's own distribution; 0 unless num_logprobs >= 0."""

    @property
    def top(self) -> list[TokenProbability]:
        """The num_logprobs likeliest, likeliest first."""

class Sampler:
    """Chooses the next token of one sequence; owns random state, penalties' memory and grammar."""

    def __init__(self, model: Model, options: SamplerOptions) -> None:
        """Raises ValueError (an option out of range), GrammarError."""

    def observe(self, tokens: Sequence[int]) -> None:
        """Show tokens that came before, for the penalties. Raises ValueError."""

    def sample(self, logits: numpy.typing.ArrayLike) -> Sampled:
        """Choose and accept a token from float32 [num_vocabulary]. After an error the sampler refuses further use.

        Raises:
            ValueError: the shape is wrong.
            GrammarError: the grammar takes no token.
            Error: a logit is not a number, or the biases forbid every token.
        """

# --- text ------------------------------------------------------------------------------------------------------------

class Detokenizer:
    """Tokens to text, one at a time: whole characters only, and nothing that may become a stop string."""

    def __init__(
        self, model: Model, *, stop: Sequence[str] = [], preserved_tokens: Sequence[str] = [], special: bool = False
    ) -> None:
        """At most 64 stop strings of at most 4096 bytes, none empty (ValueError); `preserved_tokens` are control tokens
        that are shown, `special` shows all."""

    def push(self, token: int) -> str:
        """The text that became certain through this token; nothing after a stop string. Raises ValueError."""

    def flush(self) -> str:
        """What was held back; bytes that are no character come out as U+FFFD."""

    def piece(self, token: int) -> bytes:
        """The token as it would be shown. Raises ValueError."""

    @property
    def stopped_by(self) -> int:
        """Index of the stop string that ended the text, or -1."""

def valid_utf8(data: bytes) -> str:
    """Text with U+FFFD for every maximal ill-formed run (Unicode standard, section 3.9)."""

# --- chat ------------------------------------------------------------------------------------------------------------

class ChatRequest:
    """What a template renders; `messages`, `tools`, `json_schema` and the values of `template_kwargs` are JSON text."""

    def __init__(self) -> None: ...
    messages: str
    tools: str
    tool_choice: str
    parallel_tool_calls: bool
    enable_thinking: bool
    add_generation_prompt: bool
    continue_final: bool
    json_schema: str
    grammar: str
    template_kwargs: dict[str, str]

class ChatPrompt:
    """A rendered conversation, and all that is needed to constrain and to read the answer."""

    @property
    def text(self) -> str: ...
    @property
    def grammar(self) -> str:
        """GBNF; empty = free."""

    @property
    def grammar_prefill(self) -> str:
        """Text that the grammar must take before the first token."""

    @property
    def grammar_lazy(self) -> bool: ...
    @property
    def grammar_triggers(self) -> list[GrammarTrigger]: ...
    @property
    def preserved_tokens(self) -> list[str]: ...
    @property
    def stop(self) -> list[str]: ...
    @property
    def supports_thinking(self) -> bool: ...
    @property
    def thought_start(self) -> str:
        """The tag that begins a thought; empty = none is known."""

    @property
    def thought_ends(self) -> list[str]:
        """The texts that end it."""

    @property
    def parser(self) -> str:
        """How the answer is read: llama-common's parser as JSON."""

    @property
    def generation_prompt(self) -> str:
        """What the template already began of the answer, with what is continued of it."""

    @property
    def state(
        self,
    ) -> tuple[
        bytes,
        bytes,
        bytes,
        bool,
        list[tuple[int, bytes]],
        list[bytes],
        list[bytes],
        int,
        bytes,
        bytes,
        bool,
        bytes,
        list[bytes],
        bytes,
        bytes,
    ]:
        """All of it as bytes, numbers and lists of them."""

    @staticmethod
    def from_state(
        state: tuple[
            bytes,
            bytes,
            bytes,
            bool,
            Sequence[tuple[int, bytes]],
            Sequence[bytes],
            Sequence[bytes],
            int,
            bytes,
            bytes,
            bool,
            bytes,
            Sequence[bytes],
            bytes,
            bytes,
        ],
    ) -> ChatPrompt:
        """The same again, perhaps in another process. Raises TypeError, ValueError."""

class ToolCallDelta:
    @property
    def index(self) -> int: ...
    @property
    def name(self) -> str:
        """Whole, in the first delta of a call; empty afterwards."""

    @property
    def arguments(self) -> str:
        """More of the JSON text."""

class ChatDelta:
    @property
    def content(self) -> str: ...
    @property
    def reasoning(self) -> str: ...
    @property
    def tool_calls(self) -> list[ToolCallDelta]: ...

class ChatTemplate:
    """A model's chat template. Immutable; any thread."""

    def __init__(self, source: str, bos: str = "", eos: str = "", adds_bos: bool = False) -> None:
        """Empty source = ChatML; `adds_bos`: the tokenizer adds it, so the text must not. Raises TemplateError."""

    def render(self, request: ChatRequest) -> ChatPrompt:
        """Raises ValueError (JSON of the wrong form), GrammarError (the schema), TemplateError (it refuses)."""

    @property
    def capabilities(self) -> dict[str, bool]: ...
    @property
    def supports_thinking(self) -> bool: ...

class ChatParser:
    """Follows one answer while it grows. Never fails on what a model wrote: text that fits no format is content."""

    def __init__(self, prompt: ChatPrompt, parse_tool_calls: bool = True) -> None: ...
    def feed(self, text: str) -> ChatDelta:
        """What the answer is known to hold more, through this text."""

    def finish(self) -> ChatDelta:
        """After the last text: what was held back."""

def grammar_from_schema(schema: str) -> str:
    """JSON Schema text to GBNF. Raises GrammarError; ValueError for text that is not JSON."""

# --- the engine's step -----------------------------------------------------------------------------------------------

class ThreadPool:
    """Threads (1..256, the caller included) that share out the rows of a step."""

    def __init__(self, num_threads: int) -> None: ...

class RowResult(NamedTuple):
    """One row of a step. With `error` set, nothing else counts."""

    tokens: tuple[int, ...]
    """The new tokens: one, and one more for each right guess."""

    text: str
    """What became certain; may be empty."""

    is_end: bool
    """The last token ends the answer; it has no text."""

    stopped_by: int
    """Index of the stop string that ended the answer, or -1."""

    sampled: tuple[Sampled, ...]
    """The tokens with their log probabilities; empty unless num_logprobs >= 0."""

    error: str

class StepResult:
    @property
    def status(self) -> DecodeStatus: ...
    @property
    def rows(self) -> list[RowResult]:
        """One for each row, in order; empty unless DONE."""

def step(
    context: Context,
    batch: Batch,
    rows: Sequence[tuple[int, Sampler, Detokenizer]],
    pool: ThreadPool,
) -> StepResult:
    """Decode; then sample, detokenize and stop-search each row (index in the batch, sampler, detokenizer).

    A row whose place is followed by guesses goes on for as long as they are right: it gets the tokens that it would
    have got in as many steps. Afterwards the memory holds what is certain, but for each row's last new token.

    Raises:
        ValueError: nothing was changed.
        DecodeError: the back end failed. A row's own failure is in its `error`.
    """

def score(context: Context, rows: Sequence[tuple[int, int, int]], pool: ThreadPool) -> list[Sampled]:
    """The log probability of a token at a place of the last batch, and those of the likeliest: (index, token, how many
    likeliest). No sampler, nothing is changed. The token of a result is -1 where a logit is not a number.

    Raises:
        ValueError: a place without an output, a token that is not in the vocabulary, more than 1024 likeliest.
    """

def draft(
    context: Context, rows: Sequence[tuple[int, Sequence[int], int, int]], least_probability: float
) -> list[list[int]] | None:
    """Guess what follows in each row (sequence, tokens to compute first, first position, how many guesses): always the
    likeliest token. Fewer where that is less likely than `least_probability`. Rows are decoded together.

    Afterwards the memory holds the tokens of each row and its guesses, but for the last one. None: there was no room,
    and what the rows' sequences hold is not known.

    Raises:
        ValueError: nothing was changed.
        DecodeError: the back end failed.
    """

# --- smaller weights -------------------------------------------------------------------------------------------------

def quantize(source: str, target: str, *, file_type: int, num_threads: int, max_buffer_bytes: int) -> None:
    """Write the weights of `source` (of shards the first) as one file of another type; for a process of its own.

    Progress shows in the log only: a line for each tensor, when it is done. What was written before an error stays.

    Raises:
        ValueError: a number is out of range.
        Error: with llama.cpp's own reason.
    """
