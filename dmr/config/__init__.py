"""Settings: read once from the environment, frozen, and passed down. No other module reads environment variables.

Names are Docker Model Runner's own where it has one (`MODELS_PATH`, `MODEL_RUNNER_PORT`, `DMR_ORIGINS`); ours begin
with `DMR_`.
"""

from dmr.config.aliases import Alias, other_names
from dmr.config.native import (
    CELL_TYPES,
    PLAIN_CELL_TYPES,
    AttentionSettings,
    DraftSettings,
    ProjectorSettings,
    RopeSettings,
    WeightSettings,
)
from dmr.config.reading import read_settings
from dmr.config.settings import (
    AUTO_CERTIFICATES,
    DEFAULT_CONTEXT_LIMIT,
    DEFAULT_PORT,
    DEFAULT_TLS_PORT,
    SPECULATIONS,
    EngineSettings,
    RegistrySettings,
    Settings,
    TlsSettings,
)
from dmr.config.upstreams import UpstreamEngine
from dmr.config.variables import VARIABLES

__all__ = [
    "AUTO_CERTIFICATES",
    "CELL_TYPES",
    "DEFAULT_CONTEXT_LIMIT",
    "DEFAULT_PORT",
    "DEFAULT_TLS_PORT",
    "PLAIN_CELL_TYPES",
    "SPECULATIONS",
    "VARIABLES",
    "Alias",
    "AttentionSettings",
    "DraftSettings",
    "EngineSettings",
    "ProjectorSettings",
    "RegistrySettings",
    "RopeSettings",
    "Settings",
    "TlsSettings",
    "UpstreamEngine",
    "WeightSettings",
    "other_names",
    "read_settings",
]
