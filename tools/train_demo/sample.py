"""The unit of the corpus: one conversation or one plain text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """One question, its answer, the topic it belongs to and texts a right answer contains."""

    question: str
    answer: str
    topic: str
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """A conversation (turns, optional system message) or, with no turns, a plain text."""

    turns: tuple[Turn, ...] = ()
    system: str | None = None
    text: str = ""
