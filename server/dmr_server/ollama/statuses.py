"""Work that tells how far it is: /api/pull, /api/push and /api/create give one status a line, or the last one only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import falcon
import msgspec

from dmr.errors import DmrError, InternalError, RemoteModelNotFound
from dmr.types import Tick, TransferProgress
from dmr_server.dialect import COMMENT_INTERVAL, Client
from dmr_server.errors import ClientGone
from dmr_server.ollama.wire import NDJSON, message_of

PATIENCE = 4  # silences before the answer begins; until then an error gets a true status code
SHORT_DIGEST = slice(len("sha256:"), len("sha256:") + 12)

log = logging.getLogger("dmr.server")
encode = msgspec.json.encode

Steps = Iterator["Tick | TransferProgress"]


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. `total` and `completed` in bytes."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


class Wording(NamedTuple):
    """What Ollama says at the beginning, of a layer that is on its way, and at the end."""

    begin: tuple[str, ...]
    moving: str
    end: tuple[str, ...]


PULL = Wording(("pulling manifest",), "pulling", ("verifying sha256 digest", "writing manifest", "success"))
PUSH = Wording(("retrieving manifest",), "pushing", ("pushing manifest", "success"))
CREATE = Wording((), "pulling", ("success",))


def tell(req: falcon.Request, resp: falcon.Response, steps: Steps, wording: Wording, stream: bool) -> None:
    """Answer with the steps of some work as they come or, without `stream`, with how it ended."""
    client = Client(req.env)
    begun: list[TransferProgress] = []
    try:
        for number, step in enumerate(steps, 1):
            client.check(now=isinstance(step, Tick))
            if stream and isinstance(step, TransferProgress):
                begun.append(step)
                break
            if stream and number >= PATIENCE:
                break
    except BaseException as error:
        close(steps)
        if isinstance(error, DmrError):
            raise worded(error) from error
        raise
    if not stream:
        close(steps)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = encode(Status("success"))
        return
    resp.content_type = NDJSON
    resp.set_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    resp.stream = StatusLines(begun, steps, client, wording)


class StatusLines:
    """The body of a streamed answer. `close` ends the work, if nobody else waits for it."""

    def __init__(
        self,
        begun: list[TransferProgress],
        steps: Steps,
        client: Client,
        wording: Wording,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._begun = begun
        self._steps = steps
        self._client = client
        self._wording = wording
        self._clock = clock
        self._lines = self._encode()

    def __iter__(self) -> Iterator[bytes]:
        return self._lines

    def close(self) -> None:
        self._lines.close()
        close(self._steps)

    def _encode(self) -> Generator[bytes, None, None]:
        try:
            for text in self._wording.begin:
                yield _line(Status(text))
            yield from self._told()
            for text in self._wording.end:
                yield _line(Status(text))
        except ClientGone:
            log.debug("the client left before the work was done")
        except DmrError as error:
            yield encode({"error": message_of(worded(error))}) + b"\n"
        except Exception:
            log.exception("a streamed status failed")
            yield encode({"error": InternalError("Something went wrong here; see the server's log.").message}) + b"\n"
        finally:
            close(self._steps)

    def _told(self) -> Iterator[bytes]:
        last, last_sent = _line(Status((*self._wording.begin, "waiting")[0])), self._clock()
        for begun in self._begun:
            if line := self._status(begun):
                last = line
                yield line
        for step in self._steps:
            self._client.check(now=isinstance(step, Tick))
            line = self._status(step) if isinstance(step, TransferProgress) else b""
            # The same again says that it goes on: clients know no comments, and proxies cut what is silent.
            silent = not line and self._clock() - last_sent >= COMMENT_INTERVAL
            if line or silent:
                last, last_sent = line or last, self._clock()
                yield last

    def _status(self, step: TransferProgress) -> bytes:
        if step.message:
            return _line(Status(step.message, step.layer, step.layer_size, step.layer_done))
        if not step.layer:
            return b""
        text = f"{self._wording.moving} {step.layer[SHORT_DIGEST]}"
        return _line(Status(text, step.layer, step.layer_size, step.layer_done))


def worded(error: DmrError) -> DmrError:
    """In the words that clients look for."""
    if isinstance(error, RemoteModelNotFound):
        return RemoteModelNotFound(f"pull model manifest: file does not exist: {error.message}")
    return error


def close(steps: Iterator[Any]) -> None:
    end = getattr(steps, "close", None)
    if end is not None:
        end()


def _line(status: Status) -> bytes:
    return encode(status) + b"\n"
