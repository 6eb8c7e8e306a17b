"""How models are configured: shown, changed, and applied to requests that do not say it themselves."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from dmr.client import ManagerClient
from dmr.errors import ModelNotFound
from dmr.runtime_flags import read_flags, split_flags, with_runtime_flags
from dmr.service.defaults import default_context
from dmr.store.configurations import ConfigurationCache, configuration_of
from dmr.store.store import ModelStore
from dmr.types import (
    UNLIMITED,
    ChatInput,
    ConfigurationChange,
    ConfiguredModel,
    GenerateRequest,
    Mode,
    ModelConfiguration,
    ModelRecord,
)

THINKING = "thinking"  # in `GenerateRequest.given`: the client has said whether the model is to think


class Configurations:
    """Safe for any number of threads."""

    def __init__(self, manager: ManagerClient, store: ModelStore, resolve: Callable[[str], str]) -> None:
        """`resolve`: a name that the store knows, of one that a client uses."""
        self._manager = manager
        self._store = store
        self._resolve = resolve
        self._cache = ConfigurationCache(store.root)

    def change(self, reference: str, mode: Mode | None, change: ConfigurationChange) -> ConfiguredModel:
        """Set what the change names; the model is loaded anew, in its own time, if that takes another engine.

        Raises:
            ModelNotFound, InvalidReference
            InvalidRequest: a value that cannot be; Unsupported: what is refused here, with the reason.
            Conflict: another mode of the model wishes for something else that they share.
        """
        return self._manager.configure(self._resolve(reference), mode, change)

    def reset(self, reference: str | None, mode: Mode | None = None) -> int:
        """Forget what was set for a model and a mode (None = all of them); returns how many. Raises ModelNotFound."""
        return self._manager.reset_configuration(None if reference is None else self._resolve(reference), mode)

    def shown(self, reference: str | None = None) -> list[ConfiguredModel]:
        """What was set, of models that are in the store; of one that is not, nothing. Raises StoreError."""
        models = self._cache.models()
        if reference is None:
            records = self._store.models()
        else:
            try:
                records = [self._store.get(self._resolve(reference))]
            except ModelNotFound:
                return []
        names = {record.id for record in records}
        tags = {tag for record in records for tag in record.tags}
        return [
            configured
            for configured in models
            if configured.configuration != ModelConfiguration()
            and (configured.model_id in names or configured.reference in tags)
        ]

    @staticmethod
    def split_flags(text: str) -> tuple[str, ...]:
        """A line of runtime flags as a shell would split it. Raises InvalidRequest."""
        return split_flags(text)

    def default_context(self, record: ModelRecord, asked: int | None) -> int | None:
        """The context to load a model with; None = as it is configured, or its default. Raises StoreError."""
        if asked is None and self._of(record).context_size is not None:
            return None
        return default_context(record.defaults, asked)

    def applied(self, request: GenerateRequest, record: ModelRecord) -> GenerateRequest:
        """The request, with what is configured where the client has said nothing. What was set counts as given."""
        configuration = self._of(record)
        if configuration == ModelConfiguration():
            return request
        request = with_runtime_flags(request, read_flags(configuration.runtime_flags))
        if configuration.context_size is not None and request.context_size is None:
            # The engine has it; what the model's file says of it counts no more.
            request = msgspec.structs.replace(request, given=request.given | {"context_size"})
        if configuration.reasoning_budget is not None:
            request = _with_budget(request, configuration.reasoning_budget)
        return request

    def _of(self, record: ModelRecord) -> ModelConfiguration:
        """What counts when text is generated."""
        return configuration_of(self._cache.models(), record, Mode.COMPLETION)


def _with_budget(request: GenerateRequest, budget: int) -> GenerateRequest:
    """As long as the request says nothing of thoughts itself."""
    chat = request.input
    if not isinstance(chat, ChatInput) or THINKING in request.given:
        return request
    if chat.reasoning_budget is not None or chat.reasoning_effort is not None or not chat.enable_thinking:
        return request
    limit = None if budget == UNLIMITED else budget
    return msgspec.structs.replace(request, input=msgspec.structs.replace(chat, reasoning_budget=limit))
