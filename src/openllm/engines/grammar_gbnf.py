"""Grammars in llama.cpp's notation, GBNF, read into a tree of nodes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from openllm.errors import InvalidRequestError

MAX_BYTES = 64 << 10
MAX_DEPTH = 64
"""Parentheses within parentheses."""
MAX_COUNT = 2000
"""Repetitions that may be asked for; llama.cpp's own limit."""

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+|\#[^\r\n]*) | (?P<newline>\r\n?|\n) | (?P<name>[A-Za-z0-9_-]+)
    | (?P<literal>"(?:\\.|[^"\\])*") | (?P<set>\[(?:\\.|[^]\\])*\])
    | (?P<count>\{[ \t]*\d+[ \t]*(?:,[ \t]*\d*[ \t]*)?\}) | (?P<sign>::=|[.()|*+?])""",
    re.VERBOSE | re.DOTALL,
)
_CHARACTER = re.compile(
    r"\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})|\\([trn\\\"\[\]])|([^\\])",
    re.DOTALL,
)
_ESCAPED = {"t": "\t", "r": "\r", "n": "\n"}
_REPEATS = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_ANY = r"[\x{0}-\x{10FFFF}]"


@dataclass(frozen=True)
class Chars:
    """One character out of a set, as a regular expression."""

    pattern: str


@dataclass(frozen=True)
class Rule:
    """The text of another rule."""

    name: str


@dataclass(frozen=True)
class Sequence:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Choice:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    part: Node
    least: int
    most: int | None


Node = Chars | Rule | Sequence | Choice | Repeat


def parse(gbnf: str) -> dict[str, Node]:
    """Return the rules of a grammar, "root" among them.

    Raises:
        InvalidRequestError: It is no valid GBNF, names model tokens, or is too large.
    """
    size = len(gbnf.encode("utf-8", "replace"))
    if not 1 <= size <= MAX_BYTES:
        raise _invalid(f"has {size} bytes; it must have 1 to {MAX_BYTES}")
    return _Parser(gbnf).rules()


def parts(node: Node) -> tuple[Node, ...]:
    """Return the nodes that a node is made of."""
    if isinstance(node, (Sequence, Choice)):
        return node.parts
    return (node.part,) if isinstance(node, Repeat) else ()


def names(node: Node) -> list[str]:
    """Return the rules that a node refers to."""
    if isinstance(node, Rule):
        return [node.name]
    return [name for part in parts(node) for name in names(part)]


def _invalid(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"the grammar {reason}", param="grammar")


class _Parser:
    """Reads rules from the tokens of a grammar."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._kind = self._value = ""
        self._start = 0
        self._advance()

    def rules(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        self._skip_newlines()
        while self._kind:
            name = self._value
            self._expect("name", "the name of a rule")
            if self._value != "::=":
                raise self._unexpected("`::=`")
            self._advance()
            self._skip_newlines()
            found[name] = self._choice()
            if self._kind not in ("newline", ""):
                raise self._unexpected("the end of the rule")
            self._skip_newlines()
        for name in ("root", *(each for node in found.values() for each in names(node))):
            if name not in found:
                raise _invalid(f"has no rule {name!r}; add one")
        return found

    def _choice(self) -> Node:
        parts = [self._sequence()]
        while self._value == "|" and self._kind == "sign":
            self._advance()
            self._skip_newlines()
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while (part := self._part()) is not None:
            parts.append(self._repeated(part))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _part(self) -> Node | None:
        if self._depth:
            self._skip_newlines()
        kind, value = self._kind, self._value
        if kind == "sign" and value == "(":
            return self._group()
        if kind == "name":
            part: Node = Rule(value)
        elif kind == "literal":
            codes = [code for _, code in self._signs(value[1:-1])]
            part = Sequence(tuple(Chars(_pattern([(code, code)])) for code in codes))
        elif kind == "set":
            part = self._set(value[1:-1])
        elif kind == "sign" and value == ".":
            part = Chars(_ANY)
        else:
            return None
        self._advance()
        return part

    def _group(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _invalid(f"has more than {MAX_DEPTH} parentheses within each other; use rules")
        self._advance()
        self._skip_newlines()
        inner = self._choice()
        if self._value != ")" or self._kind != "sign":
            raise self._unexpected("`)`")
        self._depth -= 1
        self._advance()
        return inner

    def _repeated(self, part: Node) -> Node:
        counts = self._counts()
        if counts is None:
            return part
        least, most = counts
        for count in (least, most or 0):
            if count > MAX_COUNT:
                raise _invalid(f"repeats a part {count} times; the limit is {MAX_COUNT}")
        if most is not None and most < least:
            raise _invalid(f"repeats a part {least} to {most} times; swap the two")
        if self._counts() is not None:
            raise _invalid(f"repeats a repetition in line {self._line()}; put parentheses around")
        return Repeat(part, least, most)

    def _counts(self) -> tuple[int, int | None] | None:
        """Read how often the part before is repeated; None if nothing says."""
        if self._depth:
            self._skip_newlines()
        if self._kind == "sign" and self._value in _REPEATS:
            counts = _REPEATS[self._value]
        elif self._kind == "count":
            low, comma, high = (each.strip() for each in self._value[1:-1].partition(","))
            counts = int(low), int(high) if high else None if comma else int(low)
        else:
            return None
        self._advance()
        return counts

    def _set(self, text: str) -> Node:
        negated = text.startswith("^")
        signs = self._signs(text[int(negated) :])
        if not signs:
            if negated:
                return Chars(_ANY)
            raise _invalid("holds the empty set [], which no character matches")
        ranges = []
        while signs:
            dashed = len(signs) > 2 and signs[1][0] == "-"
            first, last = signs[0][1], signs[2 if dashed else 0][1]
            if first > last:
                raise _invalid(f"holds the set [{text[:40]}], in which a range runs backwards")
            ranges.append((first, last))
            del signs[: 3 if dashed else 1]
        return Chars(_pattern(ranges, negated))

    def _signs(self, text: str) -> list[tuple[str, int]]:
        """Return the characters of a literal or a set: how each is written, and its code point."""
        signs = []
        at = 0
        while at < len(text):
            found = _CHARACTER.match(text, at)
            if found is None:
                raise _invalid(f"holds an unknown escape, {text[at : at + 10]!r}")
            number = found[1] or found[2] or found[3]
            code = int(number, 16) if number else ord(_ESCAPED.get(found[4], found[4]) or found[5])
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                raise _invalid(f"holds U+{code:04X}, which is no character")
            signs.append((found[0], code))
            at = found.end()
        return signs

    def _expect(self, kind: str, wanted: str) -> None:
        if self._kind != kind:
            raise self._unexpected(wanted)
        self._advance()

    def _skip_newlines(self) -> None:
        while self._kind == "newline":
            self._advance()

    def _advance(self) -> None:
        while True:
            self._start = self._at
            if self._at == len(self._text):
                self._kind = self._value = ""
                return
            found = _TOKEN.match(self._text, self._at)
            if found is None:
                self._value = self._text[self._at]
                raise self._unexpected("a rule, a literal or a set")
            self._at = found.end()
            if found.lastgroup != "space":
                self._kind, self._value = found.lastgroup or "", found[0]
                return

    def _line(self) -> int:
        return self._text.count("\n", 0, self._start) + 1

    def _unexpected(self, wanted: str) -> InvalidRequestError:
        seen = repr(self._value[:20]) if self._value else "the end"
        return _invalid(
            f"is no valid GBNF: line {self._line()} has {seen} where {wanted} should be"
        )


def _pattern(ranges: list[tuple[int, int]], negated: bool = False) -> str:
    """Return the set of characters as a regular expression of printable ASCII without `/`."""
    written = (f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in ranges)
    return f"[{'^' if negated else ''}{''.join(written)}]"
