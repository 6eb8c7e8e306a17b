"""The frontends' end of channels: all that an engine says to the streams of a process comes on one connection.

A stream begins on a connection of its own and is moved when it turns out to be long. All of this belongs to one thread.
"""

from __future__ import annotations

import uuid

from dmr.errors import DmrError
from dmr.wire import (
    Connection,
    EngineMessage,
    EngineOpenChannel,
    HeldMessages,
    WireError,
    engine_channel_decoder,
    is_last,
)


class Inbox:
    """What has come for one answer and was not taken yet."""

    def __init__(self, number: int, owner: object) -> None:
        self.number = number
        self.owner = owner
        self.is_complete = False  # nothing follows what has come
        self._messages = HeldMessages()

    def add(self, message: EngineMessage) -> None:
        self._messages.add(message)
        self.is_complete = is_last(message)

    def take(self) -> list[EngineMessage]:
        """Token by token, as on a connection of its own: how many of them were thought is counted here."""
        return self._messages.take_as_they_came()


class Channel:
    """To one engine."""

    def __init__(self, path: str) -> None:
        """Raises OSError when nobody listens, or too many others are just about to be let in."""
        self.name = uuid.uuid4().hex
        self.is_ready = False  # the engine knows it
        self.is_broken = False
        self._connection = Connection(path, 0.0, connect_timeout=0.0)
        self._inboxes: dict[int, Inbox] = {}
        self._last_number = 0
        try:
            self._connection.send(EngineOpenChannel(self.name))
        except OSError:
            self._connection.close()
            raise
        self._connection.dont_wait()

    def fileno(self) -> int:
        """Readable when `receive` has something to do."""
        return self._connection.fileno()

    def enter(self, owner: object) -> Inbox:
        """A place for one more answer. `owner` stands for it in what `receive` gives."""
        self._last_number += 1
        inbox = self._inboxes[self._last_number] = Inbox(self._last_number, owner)
        return inbox

    def leave(self, owner: object) -> None:
        """Nobody wants what comes for it any more. Harmless when it is unknown."""
        for number in [number for number, inbox in self._inboxes.items() if inbox.owner is owner]:
            del self._inboxes[number]

    def receive(self) -> list[object]:
        """Put what has come where it belongs; the owners of it. When the engine has gone, each is told so."""
        owners: dict[int, object] = {}
        try:
            for messages in self._connection.take(engine_channel_decoder):
                self.is_ready = True
                for number, message in messages:
                    inbox = self._inboxes.get(number)
                    if inbox is not None:
                        inbox.add(message)
                        owners[number] = inbox.owner
        except DmrError as error:
            self.is_broken = True
            broken_off = [inbox for inbox in self._inboxes.values() if not inbox.is_complete]
            for inbox in broken_off:
                inbox.add(WireError.of(error))
            return [inbox.owner for inbox in broken_off]
        return list(owners.values())

    def close(self) -> None:
        self._connection.close()


class Channels:
    """One for each engine."""

    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}

    def to(self, path: str) -> Channel | None:
        """The channel to an engine, which may not be ready yet; None: there can be none just now."""
        channel = self._channels.get(path)
        if channel is None or channel.is_broken:
            try:
                channel = self._channels[path] = Channel(path)
            except OSError:
                self._channels.pop(path, None)
                return None
        return channel

    def forget(self, channel: Channel) -> None:
        """It is broken. Engines have sockets with names of their own, so nobody would come upon it again."""
        for path in [path for path, other in self._channels.items() if other is channel]:
            del self._channels[path]
