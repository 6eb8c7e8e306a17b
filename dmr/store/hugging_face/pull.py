"""Brings a model of the hub into the store: list, choose, fetch what is missing side by side, name it last of all.

Files are fetched straight into the blobs, so there is one copy of them, and the next try goes on where one ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from dmr.errors import InvalidModelFile, RegistryError, Unsupported
from dmr.store.conversion import Converter
from dmr.store.draft import told_by_name
from dmr.store.hugging_face.access import find_endpoint, find_token
from dmr.store.hugging_face.choice import choose, has_gguf
from dmr.store.hugging_face.client import COMMIT, Hub, HubFile
from dmr.store.hugging_face.converted import has_safetensors, pull_converted
from dmr.store.hugging_face.names import HubModel
from dmr.store.hugging_face.source import (
    Source,
    digest_of_file,
    fetch_files,
    find_source,
    license_files,
    stage_licenses,
    stage_text,
)
from dmr.store.import_plan import MAX_TEXT_BYTES, ImportPlan, plan_files
from dmr.store.importer import commit_model
from dmr.store.index import Entry
from dmr.store.layout import Layout
from dmr.store.manifest import CHAT_TEMPLATE_TYPE, FILEPATH_ANNOTATION, Layer
from dmr.store.pull import Report, find_whole
from dmr.store.reference import parse_reference
from dmr.store.registry.transport import BRIEF, STEADY, Transport
from dmr.store.store import ModelStore
from dmr.types import ModelRecord, TransferProgress

TEMPLATE_NAME = "chat_template.jinja"
OWN_TEMPLATE = "tokenizer.chat_template"  # of a GGUF file


def pull_from_hub(
    store: ModelStore,
    text: str,
    model: HubModel,
    token: str | None,
    environ: Mapping[str, str],
    transport: Transport,
    report: Report,
    converter: Converter,
) -> ModelRecord:
    """Bring the wanted model, all its shards, its licences and a projector if there is one, and name it `text`.

    If the hub does not answer and the model is there already, that one is it. A commit that is there is not asked for.

    Raises:
        RemoteModelNotFound: no such repository, revision or quantization: nothing else is taken instead.
        Unauthorized: the repository is private or gated.
        InvalidModelFile, Unsupported, RegistryError, StoreError, Unavailable, TransferCancelled
    """
    layout, reference = Layout(store.root), parse_reference(text, store.default_registry)
    known = find_whole(layout, reference)
    if known is not None and COMMIT.fullmatch(model.revision):
        return store.get(known.id)
    report(TransferProgress("Fetching file list..."))
    patience = STEADY if known is None else BRIEF
    hub = Hub(find_endpoint(environ), find_token(environ, token), transport, patience)
    try:
        source = find_source(hub, model)
    except RegistryError as error:
        if known is None:
            raise
        warning = f"The model that is here is used, for the hub cannot tell whether there is a newer one: {error}"
        report(TransferProgress(warning, is_warning=True))
        return store.get(known.id)
    tag = str(reference)
    if has_gguf(source.files):
        return store.get(_pull_gguf(store, layout, source, tag, transport, report).id)
    if not has_safetensors(source.files):
        raise Unsupported(f"{model.repository} has neither GGUF files nor safetensors that make a language model.")
    return pull_converted(store, layout, source, tag, transport, report, converter)


def _pull_gguf(
    store: ModelStore, layout: Layout, source: Source, tag: str, transport: Transport, report: Report
) -> Entry:
    choice = choose(source.files, source.model)
    if choice.is_default or source.model.quantization:
        default = " (default)" if choice.is_default else ""
        name = choice.weights.quantization or source.model.quantization
        report(TransferProgress(f"Selected {name} quantization{default}"))
    files = (*choice.weights.files, *([choice.projector] if choice.projector else ()))
    fetch_files(layout, source, files, len(license_files(source.files)), transport, report)
    report(TransferProgress("Building model artifact..."))
    with contextlib.ExitStack() as cleanup:
        plan = _plan(store, layout, files)
        layers, staged = stage_licenses(layout, source, cleanup)
        template = _template_of(source.files, choice.weights.folder)
        if template is not None and OWN_TEMPLATE not in plan.config.gguf:
            layer, blob = stage_text(layout, source, template, CHAT_TEMPLATE_TYPE, cleanup)
            layers, staged = [layer, *layers], [blob, *staged]
        transport.check_cancelled()
        with layout.lock(store.lock_timeout):
            return commit_model(layout, [*_weights(layout, plan, files), *layers], staged, plan.config, tag)


def _plan(store: ModelStore, layout: Layout, files: Sequence[HubFile]) -> ImportPlan:
    """Read the headers. Files that make no model are not kept."""
    paths = {layout.blobs.path_of(digest_of_file(file)): file for file in files}
    try:
        with told_by_name({str(path): file.path for path, file in paths.items()}):
            return plan_files(list(paths))
    except InvalidModelFile:
        with layout.lock(store.lock_timeout):
            layout.delete_unreferenced(map(digest_of_file, files), layout.read_index())
        raise


def _weights(layout: Layout, plan: ImportPlan, files: Sequence[HubFile]) -> list[Layer]:
    digests = {layout.blobs.path_of(digest_of_file(file)): digest_of_file(file) for file in files}
    return [
        Layer(source.media_type, digests[source.path], source.size, {FILEPATH_ANNOTATION: source.name})
        for source in plan.files
    ]


def _template_of(files: Sequence[HubFile], folder: str) -> HubFile | None:
    """A template beside the weights, or at the top. One that is inside the weights goes before it."""
    by_path = {file.path: file for file in files if file.size <= MAX_TEXT_BYTES}
    beside = f"{folder}/{TEMPLATE_NAME}" if folder else TEMPLATE_NAME
    return by_path.get(beside) or by_path.get(TEMPLATE_NAME)
