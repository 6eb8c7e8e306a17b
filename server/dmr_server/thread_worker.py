"""gunicorn's worker with threads, with bounds: what happens when all of its threads are taken.

A process that is full lets the others accept connections first. A request that comes all the same waits for a thread,
but not for long; then it is refused in the form of the API it spoke to. Requests that only look are answered meanwhile
by threads of their own, so that probes see a full server alive.

A worker that has had its `--max-requests` accepts no more connections, has the master start its successor at once, and
ends with its last request, however long that takes: gunicorn's own would cut what outlasts the grace period.
"""

from __future__ import annotations

import errno
import logging
import math
import mmap
import os
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

from gunicorn.workers.gthread import (  # type: ignore[import-untyped]
    STOP_KEEPALIVE_LINGER,
    TConn,
    ThreadWorker,
)

from dmr_server import door, ending, free_workers, listening
from dmr_server.asked import MAX_BYTES, num_missing, read_asked
from dmr_server.awaiting import Awaiting
from dmr_server.lingering import Lingering
from dmr_server.refusal import LOOKING, refusing
from dmr_server.tls_connection import TlsConnection

MAX_WAIT = 10.0  # seconds that a request waits for a thread
MAX_SILENCE = 60  # seconds that a thread waits for the next bytes of a request
MAX_REST = 1.0  # seconds in which the rest of a request must have come, if it might be refused at the door
MAX_HEAD = 20.0  # seconds in which the whole head of a request must have come
LOOK_INTERVAL = 0.1  # seconds between two looks at whoever is late
PRECEDENCE = 0.02  # seconds that other processes have to accept what comes to a full one,
MAX_PRECEDENCE = 3.0  # and, if one of them says that it has a free thread, at most
NUM_LOOKING = 8  # threads for requests that only look
NUM_REFUSING = 4  # threads that say no
NUM_CLOSING = 8  # threads that end connections of TLS
NUM_REMEMBERED = 64  # ends of requests that the pace is measured by

log = logging.getLogger("gunicorn.error")


class Waiting(NamedTuple):
    conn: TConn
    since: float


class Worker(ThreadWorker):  # type: ignore[misc]
    """All of its own state belongs to the main thread, but for `_heads`. Made by the master, before the fork."""

    max_requests: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most_requests = int(self.max_requests)
        self.max_requests = sys.maxsize  # or gunicorn would count too
        self._is_leaving = mmap.mmap(-1, 1)  # one byte that the master sees too
        self._heads: dict[TConn, float] = {}  # of which requests are awaited, and since when
        self._num_busy = 0  # threads that serve a request
        self._num_looking = 0
        self._next_look = 0.0
        self._waiting: deque[Waiting] = deque()
        self._num_threads = int(self.cfg.threads)
        self._ends: deque[float] = deque(maxlen=NUM_REMEMBERED)
        self._stood_back = self._stands_back_since = -math.inf
        free_workers.current.tell(self.age, True)  # it will be

    def run(self) -> None:
        self._awaiting = Awaiting(self.poller)
        self._lingering = Lingering(self.poller, self._has_closed)
        super().run()

    def get_thread_pool(self) -> ThreadPoolExecutor:
        self._lookers = ThreadPoolExecutor(NUM_LOOKING, thread_name_prefix=LOOKING)
        self._closers = ThreadPoolExecutor(NUM_CLOSING, thread_name_prefix="closing")
        self._refusers = ThreadPoolExecutor(NUM_REFUSING, thread_name_prefix="refusing")
        return ThreadPoolExecutor(self.cfg.threads, thread_name_prefix="serving")

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        self._tell_others()

    def accept(self, listener: socket.socket) -> None:
        if self._is_full:
            time.sleep(PRECEDENCE)
            if free_workers.current.exist() and self._stand_back(time.monotonic()):
                return
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            log.error("No connection can be accepted: %s.", error.strerror)
            time.sleep(10 * PRECEDENCE)

    def _stand_back(self, now: float) -> bool:
        """Leave to another what has come, unless it does not take it: it may be stopped, or not be there yet."""
        if now - self._stood_back > 5 * PRECEDENCE:  # that was something else
            self._stands_back_since = now
        self._stood_back = now
        return now - self._stands_back_since < MAX_PRECEDENCE

    def enqueue_req(self, conn: TConn) -> None:
        """A connection that has, or will have, a request."""
        conn = self._with_tls(conn)
        if conn.initialized or conn.data_ready or _has_data(conn):
            self._receive(conn)
        else:  # it takes no thread before it says something
            self._awaiting.bytes_of(conn, 1, self.cfg.keepalive, self._receive, self._drop)

    def _receive(self, conn: TConn) -> None:
        """A request has begun to come."""
        conn.data_ready = True
        data = self._seen_at_door(conn)
        missing = num_missing(data)
        if missing:
            self._awaiting.bytes_of(conn, len(data) + missing, MAX_REST, self._receive_rest, self._admit)
        elif not self._refuse(conn, data):
            self._admit(conn)

    def _receive_rest(self, conn: TConn) -> None:
        """More of it has come; whether that is all is looked at by who serves it."""
        if not self._refuse(conn, self._seen_at_door(conn)):
            self._admit(conn)

    def _admit(self, conn: TConn) -> None:
        if not self._is_full:
            self._serve(conn)
        elif self._num_looking < NUM_LOOKING and _only_looks(conn):
            self._num_looking += 1
            self._run(self._lookers, self.handle, conn, self._has_looked)
        else:
            self._waiting.append(Waiting(conn, time.monotonic()))

    def _seen_at_door(self, conn: TConn) -> bytes:
        """What has come of a request, if it might be refused; it is still there to be read."""
        if not door.current.is_watched or isinstance(conn, TlsConnection) or not isinstance(conn.client, tuple):
            return b""
        if conn.initialized and conn.parser.unreader.buf.getvalue():  # it was sent behind one that is read already
            return b""
        try:
            return bytes(conn.sock.recv(MAX_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return b""

    def _refuse(self, conn: TConn, data: bytes) -> bool:
        """Answer what would only be refused inside; False = let it in."""
        asked = read_asked(data)
        refused = door.current.refusal(asked, conn.client[0]) if asked is not None else None
        if refused is None:
            return False
        self.nr += 1
        with suppress(OSError):  # it has left
            conn.sock.recv(len(data), socket.MSG_DONTWAIT)
            conn.sock.send(refused.again(), socket.MSG_DONTWAIT)
        self._lingering.close(conn.sock)
        return True

    def _drop(self, conn: TConn) -> None:
        """It never said anything."""
        conn.close()
        self._has_closed()

    def _with_tls(self, conn: TConn) -> TConn:
        """A fresh connection to the port of TLS speaks it."""
        here = listening.current
        if here is None or here.tls is None or conn.initialized or isinstance(conn, TlsConnection):
            return conn
        names = [listener.getsockname() for listener in self.sockets]
        place = names.index(conn.server) if conn.server in names else -1
        return TlsConnection(conn, here.tls) if here.is_tls(place, conn.server) else conn

    def murder_pending(self) -> None:
        """Called after everything that happens, and at least once a second."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_INTERVAL
        super().murder_pending()
        self._refuse_late(now)
        self._cut_slow_heads(now)
        self._awaiting.look(now)
        self._lingering.cut_late(now)
        door.current.tidy()
        if self.nr >= self._most_requests:
            self._leave(now)

    def _refuse_late(self, now: float) -> None:
        """Those that have waited for a thread long enough."""
        while self._waiting and now - self._waiting[0].since >= MAX_WAIT:
            retry_after = self._seconds_to_wait(now)
            conn = self._waiting.popleft().conn

            def refuse(conn: TConn, retry_after: float = retry_after) -> Any:
                with refusing(retry_after):
                    return self.handle(conn)

            self._run(self._refusers, refuse, conn, self.finish_request)

    @property
    def is_leaving(self) -> bool:
        """It has had its requests. In the master too."""
        return self._is_leaving[0] == 1

    def handle(self, conn: TConn) -> Any:
        with suppress(OSError):  # it has gone already
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", MAX_SILENCE, 0))
        self._heads[conn] = time.monotonic()
        try:
            return super().handle(conn)
        finally:
            self._heads.pop(conn, None)

    def handle_request(self, req: Any, conn: TConn) -> Any:
        self._heads.pop(conn, None)
        if isinstance(conn, TlsConnection):
            req.scheme = "https"
        try:
            return super().handle_request(req, conn)
        except (BlockingIOError, TimeoutError):  # it took nothing of its answer for too long
            with suppress(OSError):
                conn.sock.shutdown(socket.SHUT_RDWR)
            raise BrokenPipeError(errno.EPIPE, "the client takes nothing") from None

    def _cap_keepalive(self, deadline: float) -> None:
        """Those that have said nothing yet are treated as those that say nothing any more."""
        super()._cap_keepalive(deadline)
        self._awaiting.hurry(deadline)

    def handle_exit(self, sig: int, frame: Any) -> None:
        ending.begin()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        ending.begin()
        super().handle_quit(sig, frame)

    def finish_request(self, conn: TConn, done: Future[Any]) -> None:
        """Back on the main thread. To close a connection is to wait for its other end, which others must not."""
        if done.cancelled() or done.exception() is not None or done.result() is not False:
            super().finish_request(conn, done)
            return
        if isinstance(conn, TlsConnection):
            self._run(
                self._closers, lambda conn: conn.close(graceful=True), conn, lambda conn, done: self._has_closed()
            )
        else:
            self._lingering.close(conn.sock)

    @property
    def _is_full(self) -> bool:
        return self._num_busy >= self._num_threads

    def _serve(self, conn: TConn) -> None:
        self._num_busy += 1
        self._tell_others()
        self._run(self.tpool, self.handle, conn, self._has_served)

    def _run(
        self,
        pool: ThreadPoolExecutor,
        work: Callable[[TConn], Any],
        conn: TConn,
        then: Callable[[TConn, Future[Any]], None],
    ) -> None:
        future = pool.submit(work, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(then, conn, done))

    def _has_served(self, conn: TConn, done: Future[Any]) -> None:
        self._num_busy -= 1
        self._ends.append(time.monotonic())
        self.finish_request(conn, done)
        while self._waiting and not self._is_full:
            self._serve(self._waiting.popleft().conn)
        self._tell_others()

    def _tell_others(self) -> None:
        free_workers.current.tell(self.age, self._accepting and not self._is_full)

    def _cut_slow_heads(self, now: float) -> None:
        """Each of them holds a thread. What they have sent is no request yet, so there is nothing to answer."""
        for conn, since in list(self._heads.items()):
            if now - since >= MAX_HEAD and self._heads.pop(conn, None) is not None:
                with suppress(OSError):
                    # Of the socket below TLS, whose thread reads on until it sees the end.
                    socket.socket.shutdown(conn.sock, socket.SHUT_RD)

    def _leave(self, now: float) -> None:
        if not self.is_leaving:
            self._is_leaving[0] = 1
            self.log.info("Worker %d has had %d requests: another takes its place.", self.pid, self.nr)
            self.worker_connections = 0  # none is accepted any more,
            self.max_keepalived = 0  # and none outlives its answer
            self._cap_keepalive(now + STOP_KEEPALIVE_LINGER)
            ending.begin()
            os.kill(self.ppid, signal.SIGTTIN)  # one worker more, until this one has ended
        elif self.nr_conns == 0:
            self.alive = False

    def _has_looked(self, conn: TConn, done: Future[Any]) -> None:
        self._num_looking -= 1
        self.finish_request(conn, done)

    def _has_closed(self) -> None:
        self.nr_conns -= 1

    def _seconds_to_wait(self, now: float) -> float:
        """Until all that wait now have a thread, if requests go on to end as they did of late."""
        if not self._ends or now <= self._ends[0]:
            return MAX_WAIT
        return len(self._waiting) * (now - self._ends[0]) / len(self._ends)


def _has_data(conn: TConn) -> bool:
    """Whether anything has come, be it the end."""
    try:
        conn.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    conn.data_ready = True
    return True


def _only_looks(conn: TConn) -> bool:
    """Whether a request has come that changes and computes nothing, by its method; of TLS, that cannot be seen."""
    if isinstance(conn, TlsConnection):
        return False
    try:
        return bytes(conn.sock.recv(5, socket.MSG_PEEK | socket.MSG_DONTWAIT)).startswith((b"GET ", b"HEAD "))
    except OSError:
        return False
