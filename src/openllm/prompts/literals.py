"""Text of a user that looks like a control token stays text.

Before rendering, each control token in a message is hidden behind a sentinel: private-use
characters around random digits that no message contains. After rendering, the output is cut at
the sentinels. What lies between them may be read with control tokens, the hidden texts may not.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator

from msgspec import Struct

_OPEN, _CLOSE = "\ue000", "\ue001"
_MOST_HEADS = 256


class LiteralText(Struct, frozen=True):
    """Text to tokenize with control tokens off: in it, `<|im_end|>` is ten characters."""

    text: str


Segment = str | LiteralText
"""Text in which control tokens count, or text in which they do not."""


class ControlTokens:
    """Finds control tokens in text, the leftmost first and of those the longest."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Take the tokens' texts; blank ones are left out, since whitespace controls nothing."""
        self._texts = frozenset(text for text in texts if text.strip())
        self._width = 3
        if len({text[:3] for text in self._texts}) > _MOST_HEADS:
            self._width = 1
        lengths: dict[str, set[int]] = {}
        for text in self._texts:
            lengths.setdefault(text[: self._width], set()).add(len(text))
        # A head may begin another, shorter one: the longest token of both must win.
        self._lengths = {
            head: sorted(
                {n for k in range(1, len(head) + 1) for n in lengths.get(head[:k], ())},
                reverse=True,
            )
            for head in lengths
        }
        heads = sorted(self._lengths, key=len, reverse=True)
        self._head = re.compile("|".join(map(re.escape, heads)) if heads else r"(?!)")

    def without(self, texts: Iterable[str]) -> ControlTokens:
        return ControlTokens(self._texts.difference(texts))

    def may_be_in(self, text: str) -> bool:
        """Whether the beginning of a token is in `text`; fast, and mostly False."""
        return self._head.search(text) is not None

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) of the tokens in `text`, in order and without overlap."""
        match = self._head.search(text)
        while match is not None:
            begin = match.start()
            end = self._end(text, begin, match.group())
            if end:
                yield begin, end
            match = self._head.search(text, end or begin + 1)

    def _end(self, text: str, begin: int, head: str) -> int:
        for length in self._lengths[head]:
            if text[begin : begin + length] in self._texts:
                return begin + length
        return 0


class Sentinels:
    """Hides control tokens in the texts of one rendering and finds them again in its output."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Choose a key that occurs in none of `texts`, which are all that will be rendered."""
        texts = tuple(texts)
        key = _OPEN + str(secrets.randbelow(10**18))
        while any(key in text for text in texts):
            key = _OPEN + str(secrets.randbelow(10**18))
        self._key = key + ":"
        self._hidden: dict[str, str] = {}

    def hide(self, text: str, tokens: ControlTokens) -> str:
        """Replace each of `tokens` in `text` by a sentinel."""
        parts: list[str] = []
        done = 0
        for begin, end in tokens.spans(text):
            mark = self._hidden.setdefault(text[begin:end], f"{len(self._hidden)}{_CLOSE}")
            parts += (text[done:begin], self._key, mark)
            done = end
        return "".join(parts) + text[done:] if parts else text

    def split(self, rendered: str) -> tuple[Segment, ...]:
        """Cut `rendered` at the sentinels; no piece is empty, no two of a kind are neighbours."""
        hidden = {mark: text for text, mark in self._hidden.items()}
        first, *rest = rendered.split(self._key)
        segments: list[Segment] = [first] if first else []
        for part in rest:
            index, close, text = part.partition(_CLOSE)
            literal = hidden.get(index + close, "")
            if segments and isinstance(segments[-1], LiteralText):
                segments[-1] = LiteralText(segments[-1].text + literal)
            else:
                segments.append(LiteralText(literal))
            segments += (text,) if text else ()
        return tuple(segments)

    def restore(self, text: str) -> str:
        """Put the hidden texts back, for messages meant for people."""
        return "".join(
            segment if isinstance(segment, str) else segment.text for segment in self.split(text)
        )
