"""How models are configured. The manager owns this: nobody else writes it. Calls read and write files."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from dmr.config import EngineSettings
from dmr.errors import InvalidReference, InvalidRequest, ModelLoadFailed, ModelNotFound, Unsupported
from dmr.manager.configuration_rules import changed, check_together, mode_of
from dmr.manager.engine_plan import EnginePlan, longest_keep_alive, plan_engine
from dmr.store.configurations import ConfigurationFile, find_configuration
from dmr.store.store import ModelStore
from dmr.types import ConfigurationChange, ConfiguredModel, Mode, ModelConfiguration, ModelRecord


class Configurations:
    """Any thread."""

    def __init__(self, store: ModelStore) -> None:
        """Raises StoreError: the file is damaged, or of a newer version."""
        self._store = store
        self._file = ConfigurationFile(store.root)
        self._models = self._file.read()
        self._lock = threading.Lock()

    def of(self, record: ModelRecord) -> dict[Mode, ModelConfiguration]:
        """What was set, by mode."""
        found = {mode: find_configuration(self._models, record, mode) for mode in Mode}
        return {
            mode: each.configuration
            for mode, each in found.items()
            if each is not None and each.configuration != ModelConfiguration()
        }

    def keep_alive(self, record: ModelRecord) -> float | None:
        """Seconds that an idle engine stays; negative = for ever; None = nobody has said."""
        return longest_keep_alive(self.of(record))

    def plan(self, record: ModelRecord, base: EngineSettings, trained_context: int | None) -> EnginePlan:
        """How to start an engine. Raises ModelLoadFailed: there is no such draft model any more."""
        try:
            return plan_engine(base, self.of(record), trained_context, self._draft_path)
        except InvalidRequest as error:
            raise ModelLoadFailed(f"{error.message} Or change the model's configuration.") from error

    def change(
        self, record: ModelRecord, reference: str, wished: Mode | None, change: ConfigurationChange
    ) -> ConfiguredModel:
        """Set what the change names; when this returns it is on the disk.

        Raises:
            InvalidRequest, Unsupported, Conflict, StoreError
        """
        mode = mode_of(change, wished)
        if change.draft_model:
            self._draft_path(change.draft_model)
        with self._lock:
            others = self.of(record)
            new = changed(others.get(mode, ModelConfiguration()), change, mode)
            check_together({**others, mode: new})
            configured = ConfiguredModel(self._store.name_of(record, reference) or reference, record.id, mode, new)
            models = [each for each in self._models if each.model_id != record.id or each.mode is not mode]
            # Nothing is kept as such where something would be found under the name otherwise.
            if new != ModelConfiguration() or find_configuration(models, record, mode):
                models.append(configured)
            self._replace(models)
        return configured

    def reset(self, record: ModelRecord | None, mode: Mode | None) -> int:
        """Forget what was set for a model and a mode (None = all of them); returns how many. Raises StoreError."""

        def goes(each: ConfiguredModel) -> bool:
            is_meant = record is None or each.model_id == record.id or each.reference in record.tags
            return is_meant and (mode is None or each.mode is mode)

        with self._lock:
            kept = [each for each in self._models if not goes(each)]
            count = len(self._models) - len(kept)
            if count:
                self._replace(kept)
        return count

    def _replace(self, models: Sequence[ConfiguredModel]) -> None:
        self._file.write(models)
        self._models = tuple(models)

    def _draft_path(self, reference: str) -> str:
        """The file of a model that guesses. Raises InvalidRequest, Unsupported."""
        try:
            weights = self._store.files(reference).weights
        except (ModelNotFound, InvalidReference):
            text = f"The draft model '{reference}' does not exist. Pull it, or import a file with 'dmr import'."
            raise InvalidRequest(text, param="speculative") from None
        if len(weights) != 1:
            raise Unsupported(
                f"The draft model '{reference}' has several files; it must have one.", param="speculative"
            )
        return str(weights[0])
