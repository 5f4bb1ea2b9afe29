"""Grammars in the Lark dialect of llguidance, written from GBNF.

llguidance reads text as a lexer does, which takes the longest word: after `[a-z]+` as one word,
an "x" that the grammar asks for next would never be seen. So either the whole grammar becomes one
word, where no rule calls itself, or every character is a word of its own; both mean exactly
what the GBNF means. The first costs microseconds a token, the second milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from openllm.engines.torch_gbnf import Chars, Choice, Node, Repeat, Rule, names, parse, parts

MAX_PATTERN = 256 << 10
"""Characters of the one word that a grammar may become, its repetitions written out."""


def to_lark(gbnf: str) -> list[str]:
    """Return the grammar in Lark, the faster form first, if it has two.

    Raises:
        InvalidRequestError: It is no valid GBNF, names model tokens, or is too large.
    """
    rules = parse(gbnf)
    forms = [_in_characters(rules)]
    pattern = _as_pattern(rules)
    if pattern is not None:
        forms.insert(0, f"start: /{pattern}/")
    return forms


def _as_pattern(rules: Mapping[str, Node]) -> str | None:
    """Return the whole grammar as a regular expression; None if it recurs or grows too long."""
    done: dict[str, str] = {}
    weights: dict[str, int] = {}
    missing = {name: set(names(node)) for name, node in rules.items()}
    users: dict[str, list[str]] = {name: [] for name in rules}
    for name, needed in missing.items():
        for each in needed:
            users[each].append(name)
    ready = [name for name, needed in missing.items() if not needed]
    while ready and "root" not in done:
        name = ready.pop()
        weights[name] = _weight(rules[name], weights)
        if weights[name] > MAX_PATTERN:
            return None
        done[name] = _write(rules[name], "{}", "", "|", "(?:{})", done.__getitem__)
        for user in users[name]:
            missing[user].discard(name)
            if not missing[user]:
                ready.append(user)
    return done.get("root")


def _weight(node: Node, done: Mapping[str, int]) -> int:
    """Return how long the node is with every repetition written out."""
    if isinstance(node, Chars):
        return len(node.pattern)
    if isinstance(node, Rule):
        return done[node.name]
    weight = 16 + sum(_weight(part, done) for part in parts(node))
    return weight * max(1, node.least, node.most or 0) if isinstance(node, Repeat) else weight


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
