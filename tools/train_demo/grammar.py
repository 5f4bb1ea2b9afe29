"""Pattern expansion: (a|b|) picks one, <NAME> refers to shared alternatives, {slot} is filled.

Inside a pattern ``[a-z]`` and ``[1-9]`` stand for one random letter or digit.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Mapping
from functools import cache

# A node is a literal, a ("ref", name) pair or a list of alternatives, each a list of nodes.
Node = object
Sequence = list[Node]

_PART = re.compile(r"<[A-Z]+>|[()|]|\[a-z\]|\[1-9\]|[^<()|\[]+|.")


class Grammar:
    """Expands patterns against a set of named alternatives."""

    def __init__(self, definitions: Mapping[str, str]) -> None:
        """Take named definitions, each a pattern such as ``"start|launch"``."""
        self._named = {name: _parse(f"({body})") for name, body in definitions.items()}

    def expand(self, pattern: str, rng: random.Random, slots: Mapping[str, str]) -> str:
        """Return one random text of the pattern; raises KeyError for an unknown <NAME>."""
        out: list[str] = []
        self._walk(_parse(pattern), rng, out)
        text = "".join(out)
        for name, value in slots.items():
            text = text.replace("{" + name + "}", value)
        return " ".join(text.split())

    def _walk(self, sequence: Sequence, rng: random.Random, out: list[str]) -> None:
        for node in sequence:
            if isinstance(node, str):
                out.append(_literal(node, rng))
            elif isinstance(node, tuple):
                self._walk(self._named[node[1]], rng, out)
            elif isinstance(node, list):
                self._walk(node[int(rng.random() * len(node))], rng, out)


def _literal(node: str, rng: random.Random) -> str:
    if node == "[a-z]":
        return rng.choice(string.ascii_lowercase)
    if node == "[1-9]":
        return rng.choice("123456789")
    return node


@cache
def _parse(pattern: str) -> Sequence:
    stack: list[list[Sequence]] = [[[]]]
    for part in _PART.findall(pattern):
        if part == "(":
            stack.append([[]])
        elif part == ")":
            alternatives = stack.pop()
            if not stack:
                raise ValueError(f"unbalanced parenthesis in pattern: {pattern}")
            stack[-1][-1].append(alternatives)
        elif part == "|":
            stack[-1].append([])
        elif len(part) > 2 and part[0] == "<" and part[-1] == ">":
            stack[-1][-1].append(("ref", part[1:-1]))
        else:
            stack[-1][-1].append(part)
    if len(stack) != 1:
        raise ValueError(f"unbalanced parenthesis in pattern: {pattern}")
    alternatives = stack[0]
    return alternatives[0] if len(alternatives) == 1 else [alternatives]
