"""What was read of earlier requests, kept so that a conversation's next turn reads only its end.

A prefix is found by its exact token ids, so no text can reach a request that did not send it, and
by its adapter, which has a part in the keys and values.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from openllm.engines.torch_cache import copy_of
from openllm.engines.torch_model import RowState, shortened

LEAST = 16
"""Tokens below which copying costs as much as reading."""


class PrefixStore:
    """Keys and values of the most recently used sequences, up to a number of tokens in all."""

    def __init__(self, most_tokens: int) -> None:
        self._most = most_tokens
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], RowState] = OrderedDict()
        self.tokens = 0

    def keep(self, ids: Sequence[int], state: RowState, adapter: str = "") -> None:
        """Copy what was read of a sequence that ends; the least recently used make room."""
        read = tuple(ids[: state.tokens])
        if not LEAST <= len(read) <= self._most or (adapter, read) in self._kept:
            return
        self._forget_prefix_of(adapter, read)
        while self.tokens + len(read) > self._most:
            (_, oldest), _ = self._kept.popitem(last=False)
            self.tokens -= len(oldest)
        self._kept[adapter, read] = RowState(copy_of(state.cached))
        self.tokens += len(read)

    def find(self, ids: Sequence[int], adapter: str = "") -> RowState | None:
        """Return the longest beginning of `ids` that is kept, less than the whole of them."""
        best, longest = None, LEAST - 1
        for key in self._kept:
            shared = _shared(key[1], ids, len(ids) - 1) if key[0] == adapter else 0
            if shared > longest:
                best, longest = key, shared
        if best is None:
            return None
        self._kept.move_to_end(best)
        return shortened(self._kept[best], longest)

    def clear(self) -> None:
        self._kept.clear()
        self.tokens = 0

    def _forget_prefix_of(self, adapter: str, read: tuple[int, ...]) -> None:
        """Drop what the new sequence continues: it holds all of that."""
        for key in [key for key in self._kept if key == (adapter, read[: len(key[1])])]:
            del self._kept[key]
            self.tokens -= len(key[1])


def _shared(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """Return how many of the first tokens are the same, at most `most`."""
    most = min(most, len(one))
    low, high = 0, most
    while low < high:  # Slices compare in C, so a search by halves beats a loop over tokens.
        middle = (low + high + 1) // 2
        if tuple(one[low:middle]) == tuple(other[low:middle]):
            low = middle
        else:
            high = middle - 1
    return low
