"""Where prompts are to stop for a step, so that others can go on from there.

For memories that can be shared at their end only: the state after a token is gone as soon as the next one is computed,
unless it was kept. Two places are worth it. Before a prompt's last token: the next turn of a conversation begins with
this prompt (the answer may be written differently into it), and so do the other choices of a request. And where a
prompt parts from one that is known: a third one is likely to part there too.
"""

from __future__ import annotations

from dmr.engine.prefix_tree import Place, PrefixTree
from dmr.engine.sequence import Sequence

LEAST_APART = 32  # tokens; for fewer, another state is not worth a step of its own


class Checkpoints:
    def __init__(self) -> None:
        self.promises = PrefixTree[Sequence]()  # by the tokens whose state will be there soon
        self._pending: dict[int, list[Place[Sequence]]] = {}  # by slot of a running sequence, ascending

    def add(self, sequence: Sequence, num_tokens: int) -> None:
        """The running sequence is to stop after so many of its tokens."""
        assert sequence.slot is not None, f"{sequence} does not run"
        places = self._pending.setdefault(sequence.slot, [])
        if all(place.length != num_tokens for place in places):
            places.append(self.promises.insert(sequence.token_ids, num_tokens, sequence))
            places.sort(key=lambda place: place.length)

    def next_of(self, slot: int) -> int | None:
        places = self._pending.get(slot)
        return places[0].length if places else None

    def reach(self, slot: int, num_tokens: int) -> bool:
        """So many tokens are computed; whether there is a checkpoint just there."""
        is_there = False
        while (place := self.next_of(slot)) is not None and place <= num_tokens:
            is_there = place == num_tokens
            self.promises.remove(self._pending[slot].pop(0))
        return is_there

    def forget(self, slot: int) -> None:
        for place in self._pending.pop(slot, ()):
            self.promises.remove(place)

    def places(self) -> list[Place[Sequence]]:
        return [place for places in self._pending.values() for place in places]
