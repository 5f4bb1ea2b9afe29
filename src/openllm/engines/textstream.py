"""Clean text from raw tokens, for engines that yield bytes: whole characters, stop strings.

    bytes of a token -> Utf8Stream -> characters -> StopMatcher -> text that is safe to send
                                                 (TextStream is both, and carries the tokens)

The rules, the same whether the answer is streamed or collected:

- Bytes that begin a character are held until it is whole. Bytes that are no UTF-8 become U+FFFD,
  one for each maximal invalid part, as in `bytes.decode("utf-8", "replace")`; text that ends
  inside a character therefore ends in exactly one U+FFFD.
- Of several stop strings, the match that ends first wins; of those that end together, the longest.
  The text before that match is kept. For the stops "ab", "abc" and "bc" the text "xabc" gives "x".
- Text that may still become a stop string is held: the longest suffix that begins one, at most the
  longest stop string less one character. When the text ends without a match it is released.
- A token is released with the first of its text. When a stop string matches, the tokens whose text
  lies wholly behind the cut are dropped; one that lies across the cut is kept.

Time is linear in the text: no character is looked at twice.
"""

from __future__ import annotations

import re
from codecs import utf_8_decode
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Generic, TypeVar

Token = TypeVar("Token")


class Utf8Stream:
    """Bytes in, whole characters out."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun = b""  # The first bytes of a character, at most three.

    def feed(self, data: bytes) -> str:
        """Return the characters that `data` completes."""
        data = self._begun + data
        text, used = utf_8_decode(data, "replace", False)
        self._begun = data[used:]
        return text

    def flush(self) -> str:
        """End the text: U+FFFD when it stops inside a character, else nothing."""
        begun, self._begun = self._begun, b""
        return begun.decode("utf-8", "replace")


class _Automaton:
    """The automaton of Aho and Corasick (1975) over the characters of some stop strings.

    State s stands for the longest suffix of the text that begins a stop string. `depth[s]` is its
    length, `match[s]` the length of the longest stop string that ends there (0: none).
    """

    __slots__ = ("depth", "fail", "first", "match", "next")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.next: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.match = [0]
        self.fail = [0]
        for stop in stops:
            self._add(stop)
        self._link()
        self.first = re.compile("[" + "".join(re.escape(c) for c in sorted(self.next[0])) + "]")

    def _add(self, stop: str) -> None:
        state = 0
        for char in stop:
            target = self.next[state].get(char)
            if target is None:
                target = len(self.next)
                self.next[state][char] = target
                self.next.append({})
                self.depth.append(self.depth[state] + 1)
                self.match.append(0)
                self.fail.append(0)
            state = target
        self.match[state] = len(stop)

    def _link(self) -> None:
        """Set, breadth first, where each state goes when no transition fits."""
        queue = deque(self.next[0].values())
        while queue:
            state = queue.popleft()
            for char, target in self.next[state].items():
                self.fail[target] = self.step(self.fail[state], char)
                queue.append(target)
            # A match ends the text, so the longest stop string that ends here is its own or, as
            # shorter states come first, the one of its suffix.
            self.match[state] = self.match[state] or self.match[self.fail[state]]

    def step(self, state: int, char: str) -> int:
        while (target := self.next[state].get(char)) is None:
            if state == 0:
                return 0
            state = self.fail[state]
        return target


@lru_cache(maxsize=8)
def _automaton(stops: tuple[str, ...]) -> _Automaton:
    return _Automaton(stops)


class StopMatcher:
    """Text in, text that can no longer be part of a stop string out; see the module's rules.

    Attributes:
        matched: The stop string found; None while there is none. Nothing is emitted after it.

    Raises:
        ValueError: One of `stops` is empty.
    """

    __slots__ = ("_automaton", "_held", "_state", "matched")

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise ValueError("a stop string is empty; leave it out")
        self._automaton = _automaton(tuple(stops)) if stops else None
        self._held = ""
        self._state = 0
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """Return what has become safe to send."""
        automaton = self._automaton
        if automaton is None:
            return text
        if self.matched is not None:
            return ""
        state, transitions, match = self._state, automaton.next, automaton.match
        at, end = 0, len(text)
        while at < end:
            if state == 0:
                found = automaton.first.search(text, at)
                if found is None:
                    break
                at = found.start()
            char = text[at]
            target = transitions[state].get(char)
            state = automaton.step(state, char) if target is None else target
            at += 1
            if match[state]:
                return self._cut(self._held + text[:at], match[state])
        return self._hold(self._held + text, state)

    def flush(self) -> str:
        """End the text: return what was held, as no stop string can follow."""
        held, self._held, self._state = self._held, "", 0
        return held

    def _cut(self, text: str, length: int) -> str:
        self._held = ""
        self.matched = text[-length:]
        return text[:-length]

    def _hold(self, text: str, state: int) -> str:
        self._state = state
        safe = len(text) - self._automaton.depth[state] if self._automaton else len(text)
        self._held = text[safe:]
        return text[:safe]


class TextStream(Generic[Token]):
    """Tokens with their bytes in; text that is safe to send and the tokens it is made of, out.

    `Token` is whatever the engine wants back: an id, or an id with its logprob.
    """

    __slots__ = ("_decoded", "_emitted", "_matcher", "_pending", "_utf8")

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._utf8 = Utf8Stream()
        self._matcher = StopMatcher(stops)
        self._decoded = 0  # characters decoded, held ones included
        self._emitted = 0  # characters given out
        self._pending: deque[tuple[int, Token]] = deque()  # where each unreleased token begins

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return self._matcher.matched

    def push(self, token: Token, data: bytes) -> tuple[str, tuple[Token, ...]]:
        """Add one token; return what can be sent now. Check `matched` after it."""
        text = self._utf8.feed(data)
        start = self._decoded
        self._decoded = start + len(text)
        safe = self._matcher.feed(text)
        if safe and not self._pending and start == self._emitted:
            self._emitted = start + len(safe)
            return safe, (token,)
        self._pending.append((start, token))
        return safe, self._release(len(safe))

    def finish(self) -> tuple[str, tuple[Token, ...]]:
        """End the text at its last token; return what was held, cut if a stop string ends it."""
        safe = self._matcher.feed(self._utf8.flush())
        if self._matcher.matched is not None:
            return safe, self._release(len(safe))
        tokens = tuple(token for _, token in self._pending)
        self._pending.clear()
        return safe + self._matcher.flush(), tokens

    def _release(self, characters: int) -> tuple[Token, ...]:
        self._emitted += characters
        tokens = []
        while self._pending and self._pending[0][0] < self._emitted:
            tokens.append(self._pending.popleft()[1])
        return tuple(tokens)
