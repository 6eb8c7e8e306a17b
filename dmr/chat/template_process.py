"""`python -m dmr.chat.template_process FD SECONDS BYTES`: renders chat templates for the other end of a socket.

A template is a program that comes with a model's file or with a request. It may loop for ever, call itself without
end, or ask for more memory than there is: here that ends this process and nothing else.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import sys
from pathlib import Path

import msgspec

from dmr import _core
from dmr.chat.template_messages import ERRORS, Ask, Told, receive, send, to_request

MAX_TEMPLATES = 16  # that are kept parsed
_TOO_LITTLE_MEMORY = "bad_alloc"  # what the native side makes of it

_decoder = msgspec.msgpack.Decoder(Ask)


class _Templates:
    def __init__(self) -> None:
        self._known: dict[bytes, _core.ChatTemplate] = {}

    def answer(self, ask: Ask) -> Told:
        template = self._known.pop(ask.key, None)
        if template is None:
            if ask.definition is None:
                return Told("unknown")
            template = _core.ChatTemplate(*ask.definition)
            if len(self._known) >= MAX_TEMPLATES:
                del self._known[next(iter(self._known))]
        self._known[ask.key] = template  # as the latest that was used
        if ask.request is None:
            return Told(capabilities=template.capabilities)
        return Told(state=template.render(to_request(ask.request)).state)


def serve(connection: socket.socket, cpu_seconds: float) -> None:
    """Until the other side closes, or memory runs out. `cpu_seconds`: what one answer may take."""
    templates = _Templates()
    while True:
        try:
            ask = receive(connection, _decoder)
        except (EOFError, OSError):
            return
        # The default action of this signal ends the process, whatever it is doing.
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        told = _told(templates, ask)
        signal.setitimer(signal.ITIMER_PROF, 0)
        try:
            send(connection, told)
        except OSError:
            return
        if told.error == "memory":  # whatever was tried next would not find any either
            return


def _told(templates: _Templates, ask: Ask) -> Told:
    try:
        return templates.answer(ask)
    except MemoryError:
        return Told("memory")
    except tuple(ERRORS.values()) as error:
        if _TOO_LITTLE_MEMORY in str(error):
            return Told("memory")
        kind = next(name for name, each in ERRORS.items() if isinstance(error, each))
        return Told(kind, str(error))


def _limit(memory_bytes: int) -> None:
    """`memory_bytes`: beside what this process has already."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # where there is no such file, time is the only limit
        size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = size + memory_bytes
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def main() -> None:
    descriptor, cpu_seconds, memory_bytes = sys.argv[1:]
    connection = socket.socket(fileno=int(descriptor))
    _limit(int(memory_bytes))
    serve(connection, float(cpu_seconds))


if __name__ == "__main__":
    main()
