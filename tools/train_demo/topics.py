"""Reads the phrase files: topics with question patterns, answers and required facts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

PHRASES = Path(__file__).parent / "phrases"
KINDS = ("vp", "np", "q", "kw")


@dataclass
class Patterns:
    """Patterns of one kind, split into those for training and those held back."""

    train: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Add one line; a leading ``~`` marks it as held back."""
        if line.startswith("~"):
            self.held.append(line[1:].strip())
        else:
            self.train.append(line)


@dataclass
class Topic:
    """One subject: what is asked (vp, np, q, kw), what is answered and what must be said."""

    name: str
    patterns: dict[str, Patterns] = field(
        default_factory=lambda: {kind: Patterns() for kind in KINDS}
    )
    answers: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    slot: str = ""


@dataclass
class Book:
    """Everything the phrase files hold."""

    topics: dict[str, Topic] = field(default_factory=dict)
    frames: dict[str, Patterns] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)


def load_book(names: tuple[str, ...], folder: Path = PHRASES) -> Book:
    """Read the named phrase files (without suffix); raises ValueError for a stray line."""
    book = Book()
    for name in names:
        _read(book, name, (folder / f"{name}.txt").read_text(encoding="utf-8"))
    return book


def load_pairs(name: str, folder: Path = PHRASES) -> list[tuple[str, str]]:
    """Read a file of ``left|right`` lines."""
    lines = (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [(left, right) for left, _, right in (line.partition("|") for line in lines if line)]


def _read(book: Book, name: str, text: str) -> None:
    section, topic, target = "", Topic(""), ""
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("@"):
            section, _, target = line[1:].partition(" ")
            if section == "topic":
                topic = book.topics.setdefault(target, Topic(target))
                book.source.setdefault(target, name)
            elif section == "fact":
                topic.facts.append(target)
            elif section == "slot":
                topic.slot = target
            continue
        if section == "def":
            book.definitions[target] = line
        elif section == "frames":
            book.frames.setdefault(target, Patterns()).add(line)
        elif section == "answer":
            topic.answers.append(line)
        elif section in KINDS:
            topic.patterns[section].add(line)
        else:
            raise ValueError(f"line outside a section in {name}.txt: {line}")
