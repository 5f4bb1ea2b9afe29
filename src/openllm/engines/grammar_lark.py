"""Grammars in the Lark dialect of llguidance, written from GBNF.

llguidance reads text as a lexer does, which takes the longest word: after `[a-z]+` as one word,
an "x" that the grammar asks for next would never be seen. So either the whole grammar becomes one
word, where no rule calls itself, or every character is a word of its own; both mean exactly
what the GBNF means. The first costs microseconds a token, the second milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from openllm.engines.grammar_gbnf import Chars, Choice, Node, Repeat, Rule, names, parse, parts
from openllm.errors import InvalidRequestError

MAX_PATTERN = 20_000
"""Characters that the one word may match, repetitions counted; endless ones count as `ENDLESS`."""
ENDLESS = 10
MAX_NESTING = 200
"""Rules and parentheses within each other in that word: llguidance recurs into them."""
MAX_LEVELS = 600
"""Those of the whole grammar, where a rule that calls itself counts once: each takes some 4 KB of
the stack of whichever thread compiles it, and 2,000 end the process."""


def to_lark(gbnf: str) -> list[str]:
    """Return the grammar in Lark, the faster form first, if it has two.

    Raises:
        InvalidRequestError: It is no valid GBNF, names model tokens, or is too large.
    """
    rules = parse(gbnf)
    levels = _levels(rules)
    if levels > MAX_LEVELS:
        raise InvalidRequestError(
            f"the grammar nests rules and parentheses {levels} levels deep; the limit is "
            f"{MAX_LEVELS}, so merge rules",
            param="grammar",
        )
    forms = [_in_characters(rules)]
    pattern = _as_pattern(rules)
    if pattern is not None:
        forms.insert(0, f"start: /{pattern}/")
    return forms


class _Written(NamedTuple):
    """A rule as a regular expression: how much it matches, and its nesting."""

    pattern: str
    weight: int
    nesting: int


def _as_pattern(rules: Mapping[str, Node]) -> str | None:
    """Return the whole grammar as a regular expression; None if it recurs or grows too large."""
    done: dict[str, _Written] = {}
    for name in _plain(rules):
        weight, nesting = _size(rules[name], done)
        if weight > MAX_PATTERN or nesting > MAX_NESTING:
            return None
        pattern = _write(rules[name], "{}", "", "|", "(?:{})", lambda each: done[each].pattern)
        done[name] = _Written(pattern, weight, nesting)
        if name == "root":
            return pattern
    return None


def _levels(rules: Mapping[str, Node]) -> int:
    """Return how deep rules and parentheses may lie within each other."""
    done: dict[str, int] = {}
    for name in _plain(rules):
        done[name] = _depth(rules[name], done)
    recurring = [_depth(node, {}) for name, node in rules.items() if name not in done]
    return sum(recurring) + max(done.values(), default=0)


def _depth(node: Node, done: Mapping[str, int]) -> int:
    if isinstance(node, Rule):
        return 1 + done.get(node.name, 0)
    return 1 + max((_depth(part, done) for part in parts(node)), default=0)


def _plain(rules: Mapping[str, Node]) -> Iterator[str]:
    """Yield the rules that do not come to call themselves, each behind those that it calls."""
    order = TopologicalSorter({name: names(node) for name, node in rules.items()})
    with suppress(CycleError):  # Then it has the rules up to where they recur.
        order.prepare()
    while ready := order.get_ready():
        yield from ready
        order.done(*ready)


def _size(node: Node, done: Mapping[str, _Written]) -> tuple[int, int]:
    """Return the weight and the nesting of a node."""
    if isinstance(node, Chars):
        return 1, 1
    if isinstance(node, Rule):
        return done[node.name].weight, done[node.name].nesting + 1
    sizes = [_size(part, done) for part in parts(node)]
    weight = sum(size for size, _ in sizes)
    if isinstance(node, Repeat):
        weight *= max(1, node.least, ENDLESS if node.most is None else node.most)
    return weight, 1 + max((nesting for _, nesting in sizes), default=0)


def _in_characters(rules: Mapping[str, Node]) -> str:
    """Return the grammar rule by rule, every character a word of its own."""
    renamed = {name: f"rule_{at}" for at, name in enumerate(rules)} | {"root": "start"}
    return "\n".join(
        f"{renamed[name]}: {_write(node, '/{}/', ' ', ' | ', '({})', renamed.__getitem__)}"
        for name, node in rules.items()
    )


def _write(
    node: Node, chars: str, join: str, choose: str, group: str, named: Callable[[str], str]
) -> str:
    """Write a node in the notation that the templates describe."""

    def write(part: Node) -> str:
        return _write(part, chars, join, choose, group, named)

    if isinstance(node, Chars):
        return chars.replace("{}", node.pattern)
    if isinstance(node, Rule):
        return group.replace("{}", named(node.name))
    if isinstance(node, Choice):
        return group.replace("{}", choose.join(map(write, node.parts)))
    if isinstance(node, Repeat):
        most = "" if node.most is None else node.most
        return group.replace("{}", write(node.part)) + f"{{{node.least},{most}}}"
    return join.join(map(write, node.parts)) or group.replace("{}", '""' if join else "")
