"""What is asked of the manager and what it answers."""

from __future__ import annotations

from typing import Union

import msgspec

from dmr.types import ManagerStatistics, ModelRecord, NewModel, Removal, Repackaging, RunningModel, TransferProgress
from dmr.wire.configuration_messages import ConfigurationReset, Configured, ConfigureModel, ResetConfiguration
from dmr.wire.engine_messages import EngineInfo, LoadProgress
from dmr.wire.frames import Frame, WireError


class AcquireLease(Frame, frozen=True, tag="acquire"):
    """Load the model if need be, and keep it while this connection is open."""

    reference: str
    keep_alive: float | None = None
    context_size: int | None = None  # at least so many tokens, if the model can have them
    preload: bool = False  # it is loaded to the end even if this connection closes before


class LeaseGranted(Frame, frozen=True, tag="granted"):
    model_id: str
    socket: str
    info: EngineInfo


class ImportModel(Frame, frozen=True, tag="import"):
    """Take a file into the store. The file is moved: the sender has made it for this."""

    path: str
    reference: str


class RemoveModel(Frame, frozen=True, tag="remove"):
    reference: str
    force: bool = False


class TagModel(Frame, frozen=True, tag="tag"):
    """Give a model one more name, taking it from any other model."""

    source: str
    target: str


class AdoptModel(Frame, frozen=True, tag="adopt"):
    """Make a model of blobs that are uploads. `name` is the archive's own, `reference` goes before it."""

    manifest: bytes
    name: str = ""
    reference: str = ""


class RepackageModel(Frame, frozen=True, tag="repackage"):
    base: str
    wish: Repackaging


class PurgeModels(Frame, frozen=True, tag="purge"):
    """Remove all models."""

    force: bool = False


class PullModel(Frame, frozen=True, tag="pull"):
    """Bring a model into the store. Steps follow, then the end; leaving early cancels.

    `private`: the registries at private addresses that may be asked for it; None = any.
    """

    reference: str
    token: str | None = None
    insecure: bool = False
    private: tuple[str, ...] | None = ()


class PushModel(Frame, frozen=True, tag="push"):
    reference: str
    target: str
    token: str | None = None
    insecure: bool = False
    private: tuple[str, ...] | None = ()


class CreateModel(Frame, frozen=True, tag="create"):
    """Make a model of another one or of uploaded files. Steps follow, then the end; leaving early cancels."""

    new: NewModel


class UnloadModels(Frame, frozen=True, tag="unload"):
    references: tuple[str, ...] | None = None  # None = all


class ListRunning(Frame, frozen=True, tag="running"):
    pass


class ListStatistics(Frame, frozen=True, tag="statistics"):
    """What the manager itself has counted, of loads and their ends."""


class Ping(Frame, frozen=True, tag="ping"):
    pass


class Imported(Frame, frozen=True, tag="imported"):
    record: ModelRecord


class Tagged(Frame, frozen=True, tag="tagged"):
    record: ModelRecord


class TransferStep(Frame, frozen=True, tag="step"):
    progress: TransferProgress


class TransferDone(Frame, frozen=True, tag="transferred"):
    pass


class Removed(Frame, frozen=True, tag="removed"):
    removal: Removal


class Unloaded(Frame, frozen=True, tag="unloaded"):
    count: int


class Running(Frame, frozen=True, tag="running_models"):
    models: tuple[RunningModel, ...]
    sockets: tuple[str, ...] = ()  # of their engines, in the same order


class Counted(Frame, frozen=True, tag="counted"):
    statistics: ManagerStatistics


class Pong(Frame, frozen=True, tag="pong"):
    pass


ManagerCommand = Union[
    AcquireLease,
    ImportModel,
    PullModel,
    PushModel,
    CreateModel,
    TagModel,
    AdoptModel,
    RepackageModel,
    RemoveModel,
    PurgeModels,
    UnloadModels,
    ListRunning,
    ListStatistics,
    ConfigureModel,
    ResetConfiguration,
    Ping,
]
ManagerReply = Union[
    LoadProgress,
    LeaseGranted,
    Imported,
    Tagged,
    TransferStep,
    TransferDone,
    Removed,
    Unloaded,
    Running,
    Counted,
    Configured,
    ConfigurationReset,
    Pong,
    WireError,
]

manager_command_decoder = msgspec.msgpack.Decoder(ManagerCommand)
manager_reply_decoder = msgspec.msgpack.Decoder(ManagerReply)
