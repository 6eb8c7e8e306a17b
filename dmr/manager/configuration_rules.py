"""How a change alters a configuration, and which configurations can be. Pure: no files, no models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from dmr.errors import Conflict, InvalidRequest, Unsupported
from dmr.runtime_flags import FlagValues, flags_without, merged_flags, read_flags, speculation_of
from dmr.types import AS_TRAINED, UNLIMITED, ConfigurationChange, Mode, ModelConfiguration

MAX_CONTEXT = 1 << 24  # tokens
MAX_DRAFT_TOKENS = 64
# Of the parts of flags that have a meaning for vectors and scores; of the engine's own only these.
_PARTS_OF_ALL_MODES = ("weights", "attention", "rope", "process")
_ENGINE_FIELDS_OF_ALL_MODES = {"max_batch_tokens", "batch_limit", "num_gpu_layers", "num_threads", "thread_polling"}
_ENGINE_FIELDS_OF_ONE_PROCESS = {"num_gpu_layers", "num_threads", "thread_polling"}
_FIELDS = tuple(name for name in ConfigurationChange.__struct_fields__ if name not in ("runtime_flags", "drops_flags"))
# As clients know the fields.
NAMES: Mapping[str, str] = {
    "context_size": "context-size",
    "draft_model": "speculative.draft_model",
    "max_draft_tokens": "speculative.num_tokens",
    "least_draft_probability": "speculative.min_acceptance_rate",
    "keep_alive": "keep_alive",
    "reasoning_budget": "llamacpp.reasoning-budget",
}


def mode_of(change: ConfigurationChange, wished: Mode | None) -> Mode:
    """What a change is for: as wished, else as its flags say, else completion. Raises InvalidRequest."""
    said = read_flags(change.runtime_flags or ()).part("mode")
    found = Mode.RERANKING if "reranking" in said else Mode.EMBEDDING if said else None
    # A reranker is started with both flags.
    if wished is None or found is None or wished is found or (wished, found) == (Mode.RERANKING, Mode.EMBEDDING):
        return wished or found or Mode.COMPLETION
    raise InvalidRequest(f"the mode is {wished.value}, but the runtime flags say {found.value}", param="mode")


def changed(old: ModelConfiguration, change: ConfigurationChange, mode: Mode) -> ModelConfiguration:
    """`old` with what the change names; all else stays.

    A flag that says the same as a field is kept as that field, so that nothing is said twice.

    Raises:
        InvalidRequest: a value that cannot be, or that contradicts another of the same change.
        Unsupported: what has no effect here.
    """
    fields = {name: value for name in _FIELDS if (value := getattr(change, name)) is not UNSET}
    flags = change.runtime_flags or ()
    for name, value in _fields_of(read_flags(flags)).items():
        if fields.get(name) not in (None, value):
            raise InvalidRequest(f"{NAMES[name]} and the runtime flags contradict each other", param=NAMES[name])
        fields[name] = value
    keeps = not change.drops_flags and change.runtime_flags is not None
    if change.runtime_flags is not UNSET:
        kept = old.runtime_flags if keeps else ()
        fields["runtime_flags"] = merged_flags(kept, flags_without(flags, ("model", "mode")))
    new = msgspec.structs.replace(old, **fields)
    _check(new, mode)
    return new


def check_together(configurations: Mapping[Mode, ModelConfiguration]) -> None:
    """Raises Conflict: modes of one model wish for different things that they have to share."""
    said: dict[str, tuple[Any, Mode]] = {}
    for mode, configuration in configurations.items():
        for target, value in shared_values(configuration).values.items():
            other, first = said.setdefault(target, (value, mode))
            if other != value:
                raise Conflict(
                    f"All modes of a model share one engine, and {target.partition('.')[2]} is another for mode "
                    f'"{first.value}". Change or reset it there first.'
                )


def shared_values(configuration: ModelConfiguration) -> FlagValues:
    """What the flags say of the whole engine, whatever the mode."""
    values = read_flags(configuration.runtime_flags).values
    return FlagValues({target: value for target, value in values.items() if _is_shared(target)})


def _is_shared(target: str) -> bool:
    part, _, field = target.partition(".")
    return part in ("weights", "process") or (part == "engine" and field in _ENGINE_FIELDS_OF_ONE_PROCESS)


def _fields_of(values: FlagValues) -> dict[str, Any]:
    fields = values.part("model")
    if fields.get("context_size") == 0:  # the flag's word for it
        fields["context_size"] = AS_TRAINED
    return fields


def _check(configuration: ModelConfiguration, mode: Mode) -> None:
    _check_range(configuration, "context_size", 1, MAX_CONTEXT, AS_TRAINED)
    _check_range(configuration, "max_draft_tokens", 1, MAX_DRAFT_TOKENS)
    _check_range(configuration, "least_draft_probability", 0, 1)
    _check_range(configuration, "reasoning_budget", 0, 2**31 - 1, UNLIMITED)
    values = read_flags(configuration.runtime_flags)
    if mode is Mode.COMPLETION:
        if "engine.pooling" in values.values:
            raise Unsupported(
                'runtime flag "--pooling" has no effect in mode "completion"; set it for mode "embedding"',
                param="runtime-flags",
            )
        _check_speculation(values)
    else:
        _check_vectors(configuration, values, mode)


def _check_range(
    configuration: ModelConfiguration, name: str, least: float, most: float, special: int | None = None
) -> None:
    value = getattr(configuration, name)
    if value is None or value == special or least <= value <= most:
        return
    also = "" if special is None else f", or {special}"
    raise InvalidRequest(f"{NAMES[name]} is from {least} to {most}{also}, not {value}", param=NAMES[name])


def _check_speculation(values: FlagValues) -> None:
    kinds = values.values.get("engine.speculation")
    if kinds is None:
        return
    try:
        speculation_of(kinds)
    except KeyError:
        text = f'runtime flag "--spec-type": {",".join(kinds)} do not go together'
        raise InvalidRequest(text, param="runtime-flags") from None


def _check_vectors(configuration: ModelConfiguration, values: FlagValues, mode: Mode) -> None:
    """Raises Unsupported: there is something that vectors and scores have no use for."""
    for name in ("draft_model", "max_draft_tokens", "least_draft_probability", "reasoning_budget"):
        if getattr(configuration, name) is not None:
            raise Unsupported(_of_no_use(NAMES[name], mode), param=NAMES[name])
    for target in values.values:
        part, _, field = target.partition(".")
        is_of_use = part in _PARTS_OF_ALL_MODES or (part == "engine" and field in _ENGINE_FIELDS_OF_ALL_MODES)
        if not is_of_use and target != "engine.pooling":
            raise Unsupported(_of_no_use(f"the runtime flag for {field}", mode), param="runtime-flags")


def _of_no_use(what: str, mode: Mode) -> str:
    return f'{what} has no effect in mode "{mode.value}"; set it for mode "completion"'
