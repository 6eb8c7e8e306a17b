"""What dialects call. Safe for any number of threads."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterator
from typing import BinaryIO, TypeVar, Union

import msgspec

from dmr import _core
from dmr.chat.template_processes import processes
from dmr.client import TICK, EngineClient, ManagerClient
from dmr.config import RegistrySettings, Settings
from dmr.config.reachability import private_registries
from dmr.errors import DmrError, InternalError, InvalidReference, ModelNotFound
from dmr.service.answer import Answer, Flow
from dmr.service.answering import Answering
from dmr.service.capabilities import Capabilities, check_template
from dmr.service.configurations import Configurations
from dmr.service.defaults import with_defaults
from dmr.service.leasing import Granted, Leasing, Waited, Wish, wait_for
from dmr.service.measuring import measure_all
from dmr.service.media import check_senses, has_media
from dmr.service.media_links import MediaLinks
from dmr.service.names import Names
from dmr.service.remote_models import RemoteModels
from dmr.service.schema_check import checked_schemas
from dmr.service.storekeeping import Storekeeping
from dmr.service.uploads import uploaded_file
from dmr.service.upstreams import Upstreams
from dmr.service.vectors import check_dimensions, cut
from dmr.spare_connections import SpareConnections
from dmr.store.record_cache import RecordCache
from dmr.store.store import ModelStore
from dmr.types import (
    ChatInput,
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    Event,
    GenerateRequest,
    ManagerStatistics,
    ModelRecord,
    ModelStatistics,
    NewModel,
    Removal,
    RerankRequest,
    RunningModel,
    Scores,
    Tick,
    TokenCount,
    TokenizeRequest,
    Tokens,
    TransferProgress,
)
from dmr.wire import (
    CreateModel,
    EngineDetokenize,
    EngineEmbed,
    EngineRerank,
    EngineScores,
    EngineText,
    EngineTokenize,
    EngineTokens,
    EngineVectors,
    PullModel,
    PushModel,
)

T = TypeVar("T")
Replies = Generator[Union[T, Tick], None, None]


class Service:
    """Calls that need a model are iterators: Tick comes after each half second of silence, then what was asked for.

    Closing such an iterator is the abort. At any `next` it raises DmrError; before anything but Tick has come, that is
    a refusal. Any of them may raise ModelNotFound, ModelLoadFailed and Unavailable, and InvalidRequest for a wish that
    is wrong.
    """

    def __init__(self, manager: ManagerClient, store: ModelStore, spares: SpareConnections | None = None) -> None:
        """`spares`: of connections to engines."""
        self.upstreams = Upstreams()
        self._manager = manager
        self._store = store
        self._leasing = Leasing(manager)
        self._answering = Answering(spares)
        self._capabilities = Capabilities(store)
        self._records = RecordCache(store)
        self.storekeeping = Storekeeping(manager, store)
        self.names = Names(self._records)
        self.configurations = Configurations(manager, store, lambda name: self.names.resolve(name))
        self.remote_models = RemoteModels(RegistrySettings(), {})
        self._private_registries: tuple[str, ...] | None = None  # that requests may name; None = any
        self._media_links = MediaLinks()

    @classmethod
    def connect(cls, settings: Settings) -> Service:
        """The service of a running manager; it need not be up yet."""
        if settings.runtime_dir is None:
            raise InternalError("DMR_RUNTIME_DIR is not set: there is no manager to talk to.")
        spares = SpareConnections(TICK)
        service = cls(
            ManagerClient(settings.runtime_dir / "manager.sock", spares),
            ModelStore(settings.models_path, settings.registry.default),
            spares,
        )
        service.upstreams = Upstreams(settings.upstreams, os.environ, settings.registry.certificates)
        service.names = Names(service._records, settings.aliases)
        threading.Thread(target=processes.warm_up, name="template-process", daemon=True).start()
        service._private_registries = private_registries(settings)
        service.remote_models = RemoteModels(settings.registry, os.environ, service._private_registries)
        service._media_links = MediaLinks.of_settings(settings.fetch_media, settings.registry.certificates)
        return service

    # --- what models do ----------------------------------------------------------------------------------------------

    def generate(self, request: GenerateRequest, *, in_pieces: bool = True) -> Answer:
        """Answer a request, event by event; many of them at a time if it is not wanted `in_pieces`.

        Raises:
            Overloaded, TooManyRequests, DeadlineExceeded, EngineCrashed, ContextLengthExceeded, Unsupported
        """
        flow = Flow(in_pieces=in_pieces)
        return Answer(self._generate(request, flow), flow)

    def _generate(self, request: GenerateRequest, flow: Flow) -> Generator[Event, None, None]:
        full, check = checked_schemas((yield from self._complete(request)))

        def work(lease: Granted, waited: Waited) -> Generator[Event, None, None]:
            return self._answering.answer(full, check, lease, waited, flow)

        yield from self._leasing.use(_wish_of(full), work)

    def preload(
        self, reference: str, keep_alive: float | None = None, context_size: int | None = None
    ) -> Iterator[Event]:
        """Load a model without asking it anything; yields Tick until it is ready."""
        name = self.names.resolve(reference)
        wanted = self.configurations.default_context(self._records.get(name), context_size)
        lease = yield from self._leasing.acquire(Wish(name, keep_alive, wanted, preload=True))
        lease.close()

    def embed(self, request: EmbedRequest) -> Replies[Embeddings]:
        """Raises InvalidRequest (param "dimensions": more than the model has), ContextLengthExceeded, Unsupported."""

        def work(lease: Granted, waited: Waited) -> Replies[Embeddings]:
            if lease.info.embedding_size:
                check_dimensions(request.dimensions, lease.info.embedding_size)
            query = EngineEmbed(request.inputs, request.truncate, request.context_size, request.normalize)
            answer = yield from wait_for(EngineClient(lease.socket).ask(query, EngineVectors))
            yield Embeddings(
                cut(answer.vectors, request.dimensions, request.normalize),
                answer.num_tokens,
                msgspec.structs.replace(answer.timings, load=waited()),
            )

        return self._use(Wish(request.model, request.keep_alive), work)

    def rerank(self, request: RerankRequest) -> Replies[Scores]:
        """Raises Unsupported: the model cannot; ContextLengthExceeded."""

        def work(lease: Granted, waited: Waited) -> Replies[Scores]:
            query = _to_rerank(request)
            answer = yield from wait_for(EngineClient(lease.socket).ask(query, EngineScores))
            yield Scores(answer.scores, answer.num_tokens)

        return self._use(Wish(request.model, request.keep_alive), work)

    def tokenize(self, request: TokenizeRequest) -> Replies[Tokens]:
        def work(lease: Granted, waited: Waited) -> Replies[Tokens]:
            query = EngineTokenize(
                request.text,
                add_special=request.add_special,
                parse_special=request.parse_special,
                with_pieces=request.with_pieces,
            )
            answer = yield from wait_for(EngineClient(lease.socket).ask(query, EngineTokens))
            yield Tokens(answer.ids, answer.pieces)

        return self._use(Wish(request.model, request.keep_alive), work)

    def detokenize(self, request: DetokenizeRequest) -> Replies[str]:
        def work(lease: Granted, waited: Waited) -> Replies[str]:
            query = EngineDetokenize(request.token_ids)
            yield (yield from wait_for(EngineClient(lease.socket).ask(query, EngineText))).text

        return self._use(Wish(request.model, request.keep_alive), work)

    def count_tokens(self, request: GenerateRequest) -> Replies[TokenCount]:
        """What `generate` would be billed for the prompt; nothing is computed for it."""
        full, _ = checked_schemas((yield from self._complete(request)))
        yield from self._leasing.use(_wish_of(full), lambda lease, _: self._answering.count(full, lease))

    def render(self, request: GenerateRequest) -> Replies[str]:
        """The prompt that `generate` would use, as one text."""
        full, _ = checked_schemas((yield from self._complete(request)))
        yield from self._leasing.use(_wish_of(full), lambda lease, _: self._answering.render(full, lease))

    # --- models ------------------------------------------------------------------------------------------------------

    def list_models(self) -> list[ModelRecord]:
        return self._store.models()

    def served_models(self) -> list[ModelRecord]:
        """What clients can ask for: those of the store, and again those that the settings give one name more."""
        return [*self._store.models(), *self.names.aliased()]

    def get_model(self, reference: str) -> ModelRecord:
        """The model that is meant, perhaps by an alias. Raises ModelNotFound, InvalidReference."""
        return self.names.record(reference)

    def get_stored_model(self, reference: str) -> ModelRecord:
        """The model of this very name, for what changes the store. Raises ModelNotFound, InvalidReference."""
        return self._store.get(reference)

    def capabilities(self, record: ModelRecord) -> tuple[str, ...]:
        """Of "completion", "tools", "thinking", "insert", "vision", "audio", "embedding", "rerank"; loads nothing."""
        return self._capabilities.of(record)

    def chat_template(self, record: ModelRecord) -> str:
        """The template of the model's files; empty if there is none."""
        return self._capabilities.chat_template(record)

    def import_gguf(self, source: BinaryIO, size: int | None, reference: str) -> ModelRecord:
        """Take a GGUF file's bytes into the store under a name. `size` in bytes, if it is known.

        Raises:
            InvalidReference, InvalidModelFile, InvalidRequest, StoreError
        """
        self._store.parse_tag(reference)
        with uploaded_file(source, size, self._store.root) as path:
            return self._manager.import_model(path, reference)

    def copy_model(self, source: str, target: str) -> ModelRecord:
        """Give a model one more name, taking it from any other. Raises ModelNotFound, InvalidReference."""
        return self._manager.tag_model(source, target)

    def pull(
        self, reference: str, token: str | None = None, insecure: bool = False
    ) -> Generator[Union[Tick, TransferProgress], None, None]:
        """Bring a model from its registry; the iterator's end is success, closing it earlier cancels.

        Raises:
            InvalidReference, RemoteModelNotFound, Unauthorized, Unsupported, RegistryError, StoreError
            RegistryNotAllowed: it is at a private address, and the settings do not let requests name one there.
        """
        return self._transfer(PullModel(reference, token, insecure, self._private_registries))

    def push(
        self, source: str, target: str | None = None, token: str | None = None, insecure: bool = False
    ) -> Generator[Union[Tick, TransferProgress], None, None]:
        """Send a model to the registry of `target` (its own name by default). Otherwise as `pull`."""
        return self._transfer(PushModel(source, target or source, token, insecure, self._private_registries))

    def has_file(self, digest: str) -> bool:
        """Whether a file is here, brought by `add_file` or as a part of a model. Raises InvalidRequest."""
        return self._store.has_file(digest)

    def add_file(self, source: BinaryIO, size: int | None, digest: str) -> None:
        """Bring a file for `create_model`; kept for a day if no model needs it. `size` in bytes, if it is known.

        Raises:
            InvalidRequest: it is another file than the digest says; StoreError
        """
        self._store.add_file(source, size, digest)

    def create_model(self, new: NewModel) -> Generator[Union[Tick, TransferProgress], None, None]:
        """Make a model of another one or of files. Otherwise as `pull`.

        Raises:
            InvalidReference, ModelNotFound (the base), InvalidModelFile, InvalidRequest, Unsupported, StoreError
        """
        check_template(new.template or "")
        yield from self._transfer(CreateModel(new))

    def _transfer(
        self, command: PullModel | PushModel | CreateModel
    ) -> Generator[Union[Tick, TransferProgress], None, None]:
        with contextlib.closing(self._manager.transfer(command)) as steps:
            for step in steps:
                yield Tick() if step is None else step

    def remove_model(self, reference: str, force: bool) -> Removal:
        """Raises ModelNotFound, Conflict."""
        return self._manager.remove_model(reference, force)

    def running_models(self) -> list[RunningModel]:
        return list(self._manager.running_models())

    def statistics(self) -> list[ModelStatistics]:
        """What the engines of all loaded models have counted. It loads nothing and is no use of a model."""
        return measure_all(self._manager)

    def lifecycle(self) -> ManagerStatistics:
        """Loads, evictions and crashes since the server began, and how models stand."""
        return self._manager.lifecycle()

    def unload_models(self, references: list[str] | None) -> int:
        """End idle engines (None = all idle ones); returns how many.

        Raises:
            ModelNotFound
            Conflict: one of those that were named is in use.
        """
        return self._manager.unload_models(None if references is None else tuple(map(self._loaded, references)))

    # --- the server --------------------------------------------------------------------------------------------------

    def versions(self) -> dict[str, str]:
        info = _core.build_info()
        return {key: ", ".join(value) if isinstance(value, list) else value for key, value in info.items()}

    def is_ready(self) -> bool:
        with contextlib.suppress(DmrError):
            self._manager.ping()
            return True
        return False

    def _complete(self, request: GenerateRequest) -> Generator[Tick, None, GenerateRequest]:
        """With defaults, and with the media that it only links to."""
        full = self._with_defaults(request)
        if isinstance(full.input, ChatInput) and has_media(full.input):
            # A model that has no sense for them is not loaded, and nothing is fetched for it.
            check_senses(full.input, self.capabilities(self._records.get(full.model)), request.model)
        return (yield from self._media_links.fetched(full))

    def _with_defaults(self, request: GenerateRequest) -> GenerateRequest:
        name = self.names.resolve(request.model)
        if name != request.model:
            request = msgspec.structs.replace(request, model=name)
        record = self._records.get(name)
        return with_defaults(self.configurations.applied(request, record), record.defaults)

    def _use(self, wish: Wish, work: Callable[[Granted, Waited], Replies[T]]) -> Replies[T]:
        yield from self._leasing.use(wish._replace(model=self.names.resolve(wish.model)), work)

    def _loaded(self, reference: str) -> str:
        """A model that is loaded need not be in the store any more."""
        with contextlib.suppress(ModelNotFound, InvalidReference):
            return self.names.resolve(reference)
        return reference


def _to_rerank(request: RerankRequest) -> EngineRerank:
    """Many pairs have the same query: it is sent once."""
    places: dict[str, int] = {}
    pairs = tuple((places.setdefault(query, len(places)), document) for query, document in request.pairs)
    return EngineRerank(tuple(places), pairs, request.truncate)


def _wish_of(request: GenerateRequest) -> Wish:
    return Wish(request.model, request.keep_alive, request.context_size)
