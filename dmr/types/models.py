"""Models in the store and in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmr.types.chat import Message
from dmr.types.value import Value


class ModelConfig(Value, frozen=True):
    """What a model's config blob says about it, in the flat shape of the Docker config v0.1 and v0.2."""

    format: str = ""
    quantization: str = ""
    parameters: str = ""  # "134.52M"
    architecture: str = ""
    size: str = ""  # "91.73MiB"
    gguf: Mapping[str, str] = {}
    context_size: int | None = None
    safetensors: Mapping[str, str] = {}
    diffusers: Mapping[str, str] = {}


class ModelDefaults(Value, frozen=True):
    """What a model brings along for requests that do not say it themselves."""

    system: str = ""
    template: str = ""  # Jinja or Go; empty = the file's own
    messages: tuple[Message, ...] = ()  # stand before each conversation
    parameters: Mapping[str, Any] = {}  # fields of SamplingParams, "stop", "max_tokens", "context_size", "shift"


class ModelRecord(Value, frozen=True):
    """One model of the store. `id` is the manifest's digest, `tags` are fully qualified references."""

    id: str
    tags: tuple[str, ...]
    created: int  # Unix seconds
    config: ModelConfig
    size: int = 0  # bytes of all its files
    defaults: ModelDefaults = ModelDefaults()
    licenses: tuple[str, ...] = ()
    has_mmproj: bool = False
    parent: str = ""  # the model that it was made of, by the name it had then


class NewModel(Value, frozen=True):
    """A model to be made of another one (`base`), or of GGUF files that the store was given by their digests."""

    name: str
    base: str = ""
    files: Mapping[str, str] = {}  # name to digest; several are shards, or a model and its projector
    quantization: str = ""  # empty = the weights as they are
    # None is what the base has, empty is nothing.
    system: str | None = None
    template: str | None = None
    messages: tuple[Message, ...] | None = None
    parameters: Mapping[str, Any] = {}  # over those of the base; a value of None takes one away
    licenses: tuple[str, ...] = ()  # beside those of the base


class Repackaging(Value, frozen=True):
    """What a model made of another one's files shall have otherwise."""

    target: str
    context_size: int | None = None  # tokens
    chat_template: str | None = None  # None = as it is, empty = none beside the weights
    mmproj: str = ""  # the digest of a file that the store was given; empty = as it is
    licenses: tuple[str, ...] = ()  # beside those it has
    format: str = ""  # empty = as it is


class RunningModel(Value, frozen=True):
    """One loaded model, as `ps` shows it."""

    id: str
    reference: str  # as typed by whoever loaded it
    state: str  # "loading" | "ready"
    num_active: int  # requests that hold it now
    loaded_at: float  # Unix seconds
    last_used: float  # Unix seconds
    keep_alive: float  # seconds; negative = for ever
    pid: int
    context_size: int = 0  # tokens; 0 while it loads
    size: int = 0  # bytes of its files
    progress: float = 1.0  # of loading, 0..1


class Removal(Value, frozen=True):
    """What `remove` did, in order."""

    untagged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()


class StoreUsage(Value, frozen=True):
    """Bytes of a store by what they are for."""

    models: int = 0
    bundles: int = 0  # unpacked for engines that cannot read a store as it is; second names of a model's files are free
    reclaimable: int = 0  # of no model
    unfinished: int = 0  # of downloads and uploads that may go on
    other: int = 0

    @property
    def total(self) -> int:
        return self.models + self.bundles + self.reclaimable + self.unfinished + self.other


class TransferProgress(Value, frozen=True):
    """A step of a pull or push. `message` tells a stage, or is empty when only the numbers of one layer changed."""

    message: str = ""
    total: int = 0  # bytes of all layers
    layer: str = ""  # digest; empty = of the whole
    layer_size: int = 0
    layer_done: int = 0
    is_warning: bool = False  # `message` tells of something that is not as it should be, and does not end the work
