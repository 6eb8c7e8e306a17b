"""A client of the server's HTTP API. Every failure is a `DmrError` whose message is one line a user can act on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from dmr.cli.missing import no_such_model
from dmr.cli.replies import Chunk, Model, TokenList, Unloaded
from dmr.cli.sse import read_events
from dmr.cli.transport import ConnectionLost, Pieces, ServerError, ServerNotRunning, Transport, message_of
from dmr.cli.upload import StreamUpload, Upload
from dmr.errors import InvalidReference, ModelNotFound
from dmr.types import Repackaging

T = TypeVar("T")

CHAT_PATH = "/engines/v1/chat/completions"
COMPLETIONS_PATH = "/engines/v1/completions"
MODELS_PATH = "/engines/v1/models"
TOKENIZE_PATH = "/engines/v1/tokenize"


class ServerApi(Transport):
    """One server. Calls raise `ServerNotRunning` or `ServerError`."""

    chat_path = CHAT_PATH
    models_path = MODELS_PATH
    can_pull = True

    def is_running(self) -> bool:
        """Whether anything accepts connections there; raises `ServerError` if it is something else than this server."""
        try:
            self.get("/health", dict[str, Any])
        except ServerNotRunning:
            return False
        return True

    def backends(self) -> dict[str, str]:
        """Each engine's status; none if the server is too old to tell."""
        self.get("/health", dict[str, Any])
        try:
            return self.get("/engines/status", dict[str, str])
        except ServerError as error:
            if error.status != 404:
                raise
            return {}

    def list_models(self, kind: type[T]) -> list[T]:
        return self.get("/models", list[kind])  # type: ignore[valid-type]

    def get_model(self, name: str, kind: type[T], *, remote: bool = False) -> T:
        """One model, of the store or, with `remote`, of its registry; raises `ModelNotFound`."""
        with _missing_model(name):
            return self.get(model_path(name) + ("?remote=true" if remote else ""), kind)

    def served_models(self, kind: type[T]) -> T:
        """The models as those who ask for answers see them."""
        return self.get(self.models_path, kind)

    def served_model(self, name: str) -> dict[str, Any]:
        """The model of this name as those who ask for answers see it; raises `ModelNotFound`."""
        with _missing_model(name):
            return self.get(MODELS_PATH + quote(f"/{name}", safe=":@/"), dict[str, Any])

    def serves(self, name: str) -> bool:
        """Whether requests can name this model: it is in the store, or the name means one that is."""
        with contextlib.suppress(ModelNotFound):
            self.get_model(name, dict[str, Any])
            return True
        with contextlib.suppress(ModelNotFound):
            self.served_model(name)
            return True
        return False

    def tag_model(self, source: str, repository: str, tag: str) -> None:
        """Give a model another name; raises `ModelNotFound`."""
        with _missing_model(source):
            self.call("POST", f"{model_path(source)}/tag?{urlencode({'repo': repository, 'tag': tag})}")

    def remove_model(self, name: str, *, force: bool) -> list[dict[str, str]]:
        """Remove a tag or a model; what was done, in order. Raises `ModelNotFound`."""
        with _missing_model(name):
            data = self.call("DELETE", model_path(name) + ("?force=true" if force else ""))
        return self.decode(data, list[dict[str, str]])

    def import_model(self, name: str, upload: Upload) -> Model:
        """Send a GGUF file, streamed."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(upload.size)}
        path = f"/models/import?reference={quote(name, safe='')}"
        return self.decode(self.call("POST", path, body=upload, headers=headers, slow=True), Model)

    def load_archive(self, name: str, upload: StreamUpload) -> Model:
        """Send a model's archive, streamed; without a name the archive says it."""
        headers = {"Content-Type": "application/x-tar"}
        if upload.size is not None:
            headers["Content-Length"] = str(upload.size)
        path = f"/models/load?{urlencode({'reference': name})}" if name else "/models/load"
        answer = self.call("POST", path, body=upload, headers=headers, slow=True)
        return self.decode(answer.strip().rpartition(b"\n")[2], Model)

    @contextlib.contextmanager
    def export(self, name: str) -> Iterator[Pieces]:
        """A model's archive; raises `ModelNotFound`."""
        with contextlib.ExitStack() as stack:
            with _missing_model(name):
                pieces = stack.enter_context(self.stream("GET", f"{model_path(name)}/export"))
            yield pieces

    def repackage(self, name: str, wish: Repackaging) -> Model:
        """Make a model of another one's files; raises `ModelNotFound`."""
        with _missing_model(name):
            self.call("POST", f"{model_path(name)}/repackage", body=to_json(wish), slow=True)
        return self.get_model(wish.target, Model)

    def add_file(self, file: BinaryIO, size: int, digest: str) -> None:
        """Give the server a file of which a model is to be made, unless it has it."""
        path = f"/api/blobs/{digest}"
        try:
            self.call("HEAD", path)
        except ServerError as error:
            if error.status != 404:
                raise
            upload = StreamUpload(file, size, lambda _done, _total: None)
            self.call("POST", path, body=upload, headers={"Content-Length": str(size)}, slow=True)

    def purge(self, *, force: bool) -> None:
        """Remove all models."""
        self.call("DELETE", "/models/purge" + ("?force=true" if force else ""), slow=True)

    def running_models(self, kind: type[T]) -> list[T]:
        return self.get("/engines/ps", list[kind])  # type: ignore[valid-type]

    def unload(self, models: list[str], *, everything: bool, backend: str = "") -> int:
        """Unload idle models; how many were."""
        wanted = {"all": everything, "models": models, **({"backend": backend} if backend else {})}
        data = self.call("POST", "/engines/unload", body=to_json(wanted), slow=True)
        return self.decode(data, Unloaded).unloaded_runners

    def disk_usage(self) -> dict[str, int]:
        """Bytes by kind: `models_disk_usage`, `default_backend_disk_usage` and what else the server tells."""
        return self.get("/engines/df", dict[str, int])

    def configure(self, model: str, settings: Mapping[str, Any]) -> None:
        """Change how a model is loaded from now on; fields are those of `_configure`."""
        with _missing_model(model):
            self.call("POST", "/engines/_configure", body=to_json({"model": model, **settings}))

    def configurations(self, model: str | None) -> list[Any]:
        """How a model is configured, or all (None)."""
        return self.get("/engines/_configure" + _query(model=model), list[Any])

    def reset_configuration(self, model: str | None, mode: str | None) -> int:
        """Forget how a model is configured, or all (None); returns of how many modes. Raises `ModelNotFound`."""
        with _missing_model(model or ""):
            answer = self.call("DELETE", "/engines/_configure" + _query(model=model, mode=mode))
        return self.decode(answer, dict[str, int])["reset"]

    def preload(self, model: str) -> None:
        """Load a model; returns when it is loaded."""
        # A server that does not know the header answers with one token.
        request = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        self.call("POST", CHAT_PATH, body=to_json(request), headers={"X-Preload-Only": "true"}, slow=True)

    def tokenize(self, model: str, text: str) -> tuple[int, ...]:
        """The tokens of a text, read as plain text. Loads the model."""
        request = {"model": model, "content": text, "parse_special": False}
        return self.decode(self.call("POST", TOKENIZE_PATH, body=to_json(request), slow=True), TokenList).tokens

    @contextlib.contextmanager
    def chat(self, request: Mapping[str, Any]) -> Iterator[Iterator[Chunk]]:
        """The chunks of a streamed chat answer; leaving the block closes the connection, which stops the answer."""
        body = to_json({**request, "stream": True, "stream_options": {"include_usage": True}})
        with self.stream("POST", self.chat_path, body=body) as pieces:
            yield self._chunks(pieces)

    def _chunks(self, pieces: Iterable[bytes]) -> Iterator[Chunk]:
        with self.failures():  # an event that is too long, too
            for data in read_events(pieces):
                if data == b"[DONE]":
                    return
                chunk = self.decode(data, Chunk)
                if chunk.error is not None:
                    raise ServerError(message_of({"error": chunk.error}) or "The answer failed.")
                yield chunk
        raise ConnectionLost("The server closed the connection before the answer was complete.")


def _query(**parameters: str | None) -> str:
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


@contextlib.contextmanager
def _missing_model(name: str) -> Iterator[None]:
    try:
        yield
    except ServerError as error:
        if error.status != 404:
            raise
        raise no_such_model(name) from None


def model_path(name: str) -> str:
    """The model's route, where its name is one segment whatever it holds. Raises `InvalidReference`."""
    if not name or name in (".", ".."):  # would address another route
        raise InvalidReference(f"{name!r} is not the name of a model.")
    return "/models/" + quote(name, safe=":@")


def to_json(value: Any) -> bytes:
    return msgspec.json.encode(value)
