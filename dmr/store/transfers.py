"""Pull and push, wherever a name points: the one door for whoever moves models between a store and the world."""

from __future__ import annotations

import contextlib

from dmr.errors import DmrError, RegistryError
from dmr.store.hugging_face import parse_hub_name, pull_from_hub
from dmr.store.layout import Layout
from dmr.store.pull import RegistryOptions, Report, parse_remote, pull_model
from dmr.store.push import push_model
from dmr.store.registry.transport import Cancelled, Transport
from dmr.store.store import ModelStore
from dmr.types import ModelRecord, TransferProgress


def pull(
    store: ModelStore, text: str, options: RegistryOptions, report: Report, cancelled: Cancelled = lambda: False
) -> ModelRecord:
    """Bring a model into the store. Blocks; reports come from several threads.

    If the registry cannot be reached and the model is there already, that one is it.

    Raises:
        InvalidReference, RemoteModelNotFound, Unauthorized, Unsupported, RegistryError, StoreError, TransferCancelled
    """
    transport = Transport(cancelled)
    hub_model = parse_hub_name(text)
    if hub_model is not None:
        return pull_from_hub(store, text, hub_model, options.token, options.environ, transport, report)
    reference = parse_remote(text, store.default_registry)
    try:
        entry = pull_model(Layout(store.root), reference, options, transport, report, store.lock_timeout)
    except RegistryError as error:
        with contextlib.suppress(DmrError):
            record = store.get(text)
            report(TransferProgress(f"Using what is there: {error.message}"))
            return record
        raise
    return store.get(entry.id)


def push(
    store: ModelStore,
    source: str,
    target: str,
    options: RegistryOptions,
    report: Report,
    cancelled: Cancelled = lambda: False,
) -> None:
    """Send the model `source` to the registry under the name `target`. Blocks.

    Raises:
        ModelNotFound, InvalidReference, RemoteModelNotFound, Unauthorized, Unsupported, RegistryError, StoreError,
        TransferCancelled
    """
    record = store.get(source)
    layout = Layout(store.root)
    entry = layout.read_index().find_id(record.id)
    if entry is None:
        record = store.get(source)  # it was removed a moment ago: this tells so
        raise RegistryError(f"The model {record.id} changed while it was read; try again.")
    reference = parse_remote(target, store.default_registry)
    push_model(layout, entry, reference, options, Transport(cancelled), report)
