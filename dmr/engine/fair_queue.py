"""Sequences that wait, and which of them comes next: fair between clients, short before long within one.

Between clients: each has an account of the tokens that were computed for it, divided by its weight, and the lowest
account comes first (weighted fair queueing). Who comes back after a pause starts level with those that are at work:
nobody saves up credit, and nobody pays for what nobody else wanted.

Within a client: the one that would be done first, counted from its arrival in tokens of the whole engine's work. So a
short prompt passes a long one, but work that came much later passes nobody: that is the ageing.
"""

from __future__ import annotations

import bisect
import itertools
from collections import deque
from collections.abc import Iterator

from dmr.engine.sequence import Sequence

Rank = tuple[float, int]  # the smaller comes first


class _Client:
    __slots__ = ("account", "num_sequences", "ranked", "returned", "weight")

    def __init__(self, account: float) -> None:
        self.account = account  # tokens computed for it, by weight
        self.weight = 1.0
        self.num_sequences = 0  # waiting and running
        self.returned: deque[Sequence] = deque()  # they ran already: before all others of this client
        self.ranked: list[tuple[Rank, Sequence]] = []  # ascending

    @property
    def num_waiting(self) -> int:
        return len(self.returned) + len(self.ranked)

    def waiting(self) -> Iterator[Sequence]:
        yield from self.returned
        yield from (sequence for _, sequence in self.ranked)


class FairQueue:
    """Knows every sequence from `add` to `forget`, also while it runs; holds those that wait."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}  # those with a sequence
        self._ranks: dict[int, Rank] = {}  # by sequence id
        self._num_waiting = 0
        self._num_computed = 0  # tokens of all: the clock that arrivals are counted by

    def __len__(self) -> int:
        return self._num_waiting

    def __iter__(self) -> Iterator[Sequence]:
        """In the order of service, if nothing were computed in between."""
        for client in self._in_order():
            yield from client.waiting()

    def heads(self, num_each: int) -> Iterator[Sequence]:
        """The first few of each client, the least served client first."""
        for client in self._in_order():
            yield from itertools.islice(client.waiting(), num_each)

    def add(self, sequence: Sequence) -> None:
        """A new one."""
        client = self._clients.get(sequence.client)
        if client is None:
            client = self._clients[sequence.client] = _Client(self._lowest_account())
        client.weight = sequence.weight
        client.num_sequences += 1
        rank = (float(self._num_computed + sequence.num_tokens), sequence.id)
        self._ranks[sequence.id] = rank
        bisect.insort(client.ranked, (rank, sequence), key=lambda entry: entry[0])
        self._num_waiting += 1

    def put_back(self, sequence: Sequence) -> None:
        """One that ran and has to wait again."""
        self._clients[sequence.client].returned.appendleft(sequence)
        self._num_waiting += 1

    def take(self, sequence: Sequence) -> None:
        """It no longer waits: it runs, or is forgotten next."""
        client = self._clients[sequence.client]
        if sequence in client.returned:
            client.returned.remove(sequence)
        else:
            place = bisect.bisect_left(client.ranked, self._ranks[sequence.id], key=lambda entry: entry[0])
            assert client.ranked[place][1] is sequence, f"{sequence} does not wait"
            del client.ranked[place]
        self._num_waiting -= 1

    def knows(self, sequence: Sequence) -> bool:
        return sequence.id in self._ranks

    def forget(self, sequence: Sequence) -> None:
        """It has ended and does not wait."""
        del self._ranks[sequence.id]
        client = self._clients[sequence.client]
        client.num_sequences -= 1
        if client.num_sequences == 0:
            del self._clients[sequence.client]

    def charge(self, sequence: Sequence, num_tokens: int) -> None:
        """So many tokens of it are computed (negative: they were not after all)."""
        client = self._clients[sequence.client]
        client.account += num_tokens / client.weight
        self._num_computed += num_tokens

    def order(self, sequence: Sequence) -> tuple[float, Rank]:
        """Sorts waiting and running prompts by who is to be computed first."""
        return (self._clients[sequence.client].account, self._ranks[sequence.id])

    def account(self, sequence: Sequence) -> float:
        """Of its client: the lower, the sooner it is to be served."""
        return self._clients[sequence.client].account

    def num_running(self, client: str) -> int:
        known = self._clients[client]
        return known.num_sequences - known.num_waiting

    def _lowest_account(self) -> float:
        return min((client.account for client in self._clients.values()), default=0.0)

    def _in_order(self) -> list[_Client]:
        waiting = [client for client in self._clients.values() if client.num_waiting]
        return sorted(waiting, key=lambda client: client.account) if len(waiting) > 1 else waiting
