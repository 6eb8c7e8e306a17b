"""Pull and push, wherever a name points: the one door for whoever moves models between a store and the world."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

from dmr.errors import DmrError, RegistryError
from dmr.store.conversion import Converter
from dmr.store.hugging_face.access import find_endpoint
from dmr.store.hugging_face.names import parse_hub_name
from dmr.store.hugging_face.pull import pull_from_hub
from dmr.store.hugging_face.push import push_to_hub
from dmr.store.layout import Layout
from dmr.store.pull import RegistryOptions, Report, parse_remote, pull_model
from dmr.store.push import push_model
from dmr.store.reference import parse_reference
from dmr.store.registry.client import HUB_HOST
from dmr.store.registry.reach import PrivateHosts
from dmr.store.registry.transport import Cancelled, Transport
from dmr.store.remote import inspect_model
from dmr.store.store import ModelStore
from dmr.types import ModelRecord


def pull(
    store: ModelStore,
    text: str,
    options: RegistryOptions,
    report: Report,
    cancelled: Cancelled = lambda: False,
    place: AbstractContextManager[None] = contextlib.nullcontext(),  # noqa: B008
    converter: Converter | None = None,
) -> ModelRecord:
    """Bring a model into the store. Blocks; reports come from several threads.

    `place` is entered before anything large is fetched: it may wait for its turn. `converter` is for safetensors.

    Raises:
        InvalidReference, RemoteModelNotFound, Unauthorized, Unsupported, RegistryError, RegistryNotAllowed, StoreError,
        TransferCancelled
    """
    transport = _transport(options, store.default_registry, cancelled)
    hub_model = parse_hub_name(text)
    if hub_model is not None:
        with place:
            converter = converter or Converter()
            return pull_from_hub(store, text, hub_model, options.token, options.environ, transport, report, converter)
    reference, layout = parse_remote(text, store.default_registry), Layout(store.root)
    return store.get(pull_model(layout, reference, options, transport, report, store.lock_timeout, place).id)


def inspect(text: str, default_registry: str, options: RegistryOptions) -> ModelRecord:
    """A model as its registry has it; nothing is kept of it. Blocks.

    Raises:
        InvalidReference, RemoteModelNotFound, Unauthorized, Unsupported, RegistryError, RegistryNotAllowed, StoreError
    """
    transport = _transport(options, default_registry, lambda: False)
    return inspect_model(parse_remote(text, default_registry), options, transport)


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
        ModelNotFound, InvalidReference, RemoteModelNotFound, Unauthorized, Unsupported, RegistryError,
        RegistryNotAllowed, StoreError, TransferCancelled
    """
    record = store.get(source)
    layout = Layout(store.root)
    entry = layout.read_index().find_id(record.id)
    if entry is None:
        record = store.get(source)  # it was removed a moment ago: this tells so
        raise RegistryError(f"The model {record.id} changed while it was read; try again.")
    transport, hub_model = _transport(options, store.default_registry, cancelled), parse_hub_name(target)
    if hub_model is not None:
        push_to_hub(layout, entry, hub_model, options, transport, report)
        return
    push_model(layout, entry, parse_remote(target, store.default_registry), options, transport, report)


def same_model(text: str, default_registry: str) -> str:
    """One spelling for all names of the same thing; what is no name stays as it is."""
    with contextlib.suppress(DmrError):
        if parse_hub_name(text) is None:
            return str(parse_reference(text, default_registry))
    return text.strip()


def _transport(options: RegistryOptions, default_registry: str, cancelled: Cancelled) -> Transport:
    """What the configuration names itself may be anywhere."""
    own = (default_registry, HUB_HOST, *options.mirrors, find_endpoint(options.environ))
    return Transport(cancelled, options.certificates, options.environ, PrivateHosts(options.private, own))
