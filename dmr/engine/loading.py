"""A model's weights, and what can be told of it before anything is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from dmr import _core
from dmr.config import DEFAULT_CONTEXT_LIMIT, AttentionSettings, EngineSettings
from dmr.errors import InvalidRequest, ModelLoadFailed, Unsupported
from dmr.memory.context_planner import ContextPlan, ContextPlanner, usable_memory
from dmr.memory.free_memory import Free, free_memory
from dmr.memory.layer_arrays import read_layer_arrays
from dmr.memory.memory_costs import ModelCosts, model_costs
from dmr.wire import EngineInfo, EngineRequest, EngineSpec

_POOLINGS = {"1": "mean", "2": "cls", "3": "last", "4": "rank"}  # GGUF's numbers; 0 says that there is none
_WANT_OF_MEMORY = ("allocate", "out of memory", "bad_alloc")  # in what llama.cpp says of it
_NO_TEXT = ("wavtokenizer-dec",)  # architectures whose input is not text
_RERANK_TEMPLATE = "tokenizer.chat_template.rerank"


class LoadedModel(NamedTuple):
    model: _core.Model
    template: str  # of chats; empty = none
    declared_pooling: str | None  # how the file says that vectors are made: it is a model for embeddings or reranking
    rerank_template: str | None  # with {query} and {document}
    is_causal: bool
    weights: tuple[str, ...]  # files
    costs: ModelCosts
    reserved_bytes: int = 0  # of the host's free memory: other engines are going to take them

    def plan_context(self, settings: EngineSettings, max_sequences: int) -> ContextPlan:
        """How large a context to generate with is to be, by what is wished and by the memory that is free now.

        Raises:
            ModelLoadFailed: there is not enough memory.
        """
        free, beside_weights = self.usable_memory(settings)
        planner = ContextPlanner(self.costs, free, settings.max_batch_tokens, max_sequences, beside_weights)
        if settings.context_size:
            return planner.wished(settings.context_size)
        return planner.chosen(min(max(self.model.context_length, 1), DEFAULT_CONTEXT_LIMIT))

    def usable_memory(self, settings: EngineSettings) -> tuple[Free | None, Free | None]:
        """What a context may take now, and what of it as long as the weights stay in memory; None = any."""
        num_layers = _num_cell_layers(settings)
        return (
            usable_for(self.model, (), num_layers, settings.context_bytes, self.reserved_bytes),
            usable_for(self.model, self.weights, num_layers, settings.context_bytes, self.reserved_bytes),
        )

    def with_cells(self, attention: AttentionSettings) -> LoadedModel:
        """The same with other KV cells."""
        costs = context_costs(self.model, self.weights[0], attention.key_type, attention.value_type)
        return self._replace(costs=costs)

    def pooling(self, generates: bool) -> str:
        """How its vectors are made as long as nobody wishes otherwise: "mean", "cls", "last" or "rank".

        A model that generates has put what it knows of a text into its last token. A file of a reranker often says
        nothing of it but for the head that it has.
        """
        if self.declared_pooling is not None:
            return self.declared_pooling
        if generates:
            return "last"
        return "rank" if self.model.has_classifier else "mean"


def load_model(spec: EngineSpec, progress: Callable[[float], bool]) -> LoadedModel:
    """`progress` is told the fraction done; False cancels.

    Raises:
        ModelLoadFailed: with llama.cpp's own reason.
    """
    try:
        settings = spec.settings
        placement = msgspec.structs.asdict(settings.weights)
        model = _core.Model(list(spec.weights), num_gpu_layers=settings.num_gpu_layers, progress=progress, **placement)
        override = spec.chat_template
        template = Path(override).read_text(encoding="utf-8") if override else model.chat_template
        costs = context_costs(model, spec.weights[0], settings.attention.key_type, settings.attention.value_type)
    except (_core.Error, ValueError, OSError) as error:
        raise load_failure(error, spec.weights) from error
    metadata = model.metadata
    architecture = metadata.get("general.architecture", "")
    if model.num_vocabulary == 0 or architecture in _NO_TEXT or (model.has_encoder and model.has_decoder):
        raise ModelLoadFailed(f"{model.description} cannot generate text, nor make vectors of it.")
    return LoadedModel(
        model,
        template,
        _POOLINGS.get(metadata.get(f"{architecture}.pooling_type", "")),
        metadata.get(_RERANK_TEMPLATE),
        metadata.get(f"{architecture}.attention.causal") != "false",
        spec.weights,
        costs,
        spec.reserved_bytes,
    )


def load_failure(error: Exception, weights: Sequence[str]) -> ModelLoadFailed:
    """With numbers where an allocation has failed: there may be others who can make room."""
    failure = ModelLoadFailed(str(error))
    if any(word in failure.message.lower() for word in _WANT_OF_MEMORY):
        with contextlib.suppress(OSError):
            failure.needed_bytes = sum(Path(path).stat().st_size for path in weights)
    return failure


def context_costs(model: _core.Model, first_file: str, key_type: str = "f16", value_type: str = "f16") -> ModelCosts:
    """Raises ValueError and OSError: the file is another one by now."""
    return model_costs(
        model.metadata,
        read_layer_arrays(Path(first_file)),
        num_vocabulary=model.num_vocabulary,
        is_recurrent=model.is_recurrent,
        is_hybrid=model.is_hybrid,
        key_type=key_type,
        value_type=value_type,
    )


def _num_cell_layers(settings: EngineSettings) -> int:
    """Layers whose KV cells are on a GPU; negative = all."""
    on_cpu = settings.weights.devices == ("none",) or not settings.attention.offload_cells
    return 0 if on_cpu else settings.num_gpu_layers


def usable_for(
    model: _core.Model,
    weights: tuple[str, ...],
    num_gpu_layers: int,
    context_bytes: int = 0,
    reserved_bytes: int = 0,
) -> Free | None:
    """What a context over the model may take now, while these files stay in memory; None = any.

    `context_bytes`: what somebody has set; 0 = nothing. `reserved_bytes`: of the host's, that are not to be taken.
    """
    free = free_memory(weights)
    if free is not None:
        free = free._replace(num_bytes=max(0, free.num_bytes - reserved_bytes))
    offloaded = 1.0 if num_gpu_layers < 0 else min(1.0, num_gpu_layers / (model.num_layers + 1))
    return usable_memory(free, _core.devices(), offloaded, context_bytes)


def computes_on_device() -> bool:
    """Whether there is a GPU to compute on, so that costs are not those of a CPU."""
    return any(device["kind"] in ("gpu", "igpu") for device in _core.devices())


def describe(
    model: _core.Model, template: str, context_size: int, tasks: tuple[str, ...], full_context_size: int = 0
) -> EngineInfo:
    """`tasks`: of "generate", "embed", "rerank"; whether it fills in is found here."""
    infill = min(model.fim_prefix, model.fim_suffix, model.fim_middle) >= 0
    tokenizer = ModelTokenizer(model, context_size)
    return EngineInfo(
        description=model.description,
        context_size=context_size,
        chat_template=template,
        bos=tokenizer.token_text(model.bos),
        eos=tokenizer.token_text(model.eos),
        adds_bos=model.adds_bos,
        trained_context_size=model.context_length,
        embedding_size=model.vector_length,
        num_vocabulary=model.num_vocabulary,
        capabilities=(*tasks, "infill") if infill and "generate" in tasks else tasks,
        control_tokens=tokenizer.control_tokens,
        full_context_size=full_context_size if full_context_size > context_size else 0,
    )


class PairMarks(NamedTuple):
    """The tokens around the two texts of a pair."""

    begin: list[int]
    between: list[int]
    end: list[int]


class ModelVocabulary:
    """What a model's tokens are. Any thread."""

    def __init__(self, model: _core.Model, context_size: int) -> None:
        """`context_size`: the most tokens of one text."""
        self._model = model
        self.context_size = context_size
        self.begin_token = model.bos if model.adds_bos else -1
        self.control_tokens = tuple(text for text in model.control_tokens if text)
        self.infill_tokens = (model.fim_prefix, model.fim_suffix, model.fim_middle)

    @property
    def pair_marks(self) -> PairMarks:
        model = self._model
        end = [model.eos if model.eos >= 0 else model.separator] if model.adds_eos else []
        separator = [model.separator] if model.adds_separator else []
        between = [token for token in end + separator if token >= 0]
        # Without an end token, what stands between the texts stands after them too: [CLS] a [SEP] b [SEP].
        return PairMarks([self.begin_token] if self.begin_token >= 0 else [], between, end or between)

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return self._model.tokenize(text, add_special=add_special, parse_special=parse_special)

    def piece(self, token: int) -> bytes:
        """The bytes of one token, control tokens included."""
        return self._model.piece(token, special=True)

    def token_text(self, token: int) -> str:
        """Empty for -1, which is no token."""
        return _core.valid_utf8(self.piece(token)) if token >= 0 else ""

    def detokenize(self, token_ids: list[int]) -> str:
        """Bytes that are no character come out as U+FFFD."""
        return _core.valid_utf8(self._model.detokenize(token_ids, special=True))

    def check_tokens(self, token_ids: tuple[int, ...], param: str = "prompt") -> list[int]:
        """Raises InvalidRequest, naming `param`, for ids that the vocabulary does not have."""
        for token in token_ids:
            if not 0 <= token < self._model.num_vocabulary:
                raise InvalidRequest(f"Token {token} is not in the model's vocabulary.", param=param)
        return list(token_ids)


class ModelTokenizer(ModelVocabulary):
    """For models that cannot generate."""

    def make_generator(self, request: EngineRequest, seed: int, prompt: list[int]) -> NoReturn:
        """Raises Unsupported: who only has a vocabulary cannot generate."""
        raise Unsupported(cannot_generate(self._model))


def cannot_generate(model: _core.Model) -> str:
    return f"{model.description} is a model for embeddings; it cannot generate text."
