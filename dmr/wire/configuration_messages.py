"""How models are to run: what is asked of the manager, and what it answers."""

from __future__ import annotations

from dmr.types import ConfigurationChange, ConfiguredModel, Mode
from dmr.wire.frames import Frame


class ConfigureModel(Frame, frozen=True, tag="configure"):
    """Change what is named, and load the model anew as soon as that is possible."""

    reference: str
    change: ConfigurationChange
    mode: Mode | None = None  # None = as the flags say, else completion


class ResetConfiguration(Frame, frozen=True, tag="reset_configuration"):
    reference: str | None = None  # None = of all models
    mode: Mode | None = None  # None = of all modes


class Configured(Frame, frozen=True, tag="configured"):
    configured: ConfiguredModel


class ConfigurationReset(Frame, frozen=True, tag="configuration_reset"):
    count: int
