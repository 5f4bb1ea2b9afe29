"""Plain texts, so that the model also continues text outside a conversation."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tools.train_demo.skills import join
from tools.train_demo.words import COLOURS, LISTS, SEASONS

if TYPE_CHECKING:
    from tools.train_demo.corpus import Corpus

_WHO = [
    "a small fox",
    "an old sailor",
    "a young baker",
    "a little robot",
    "a clever cat",
    "a tired horse",
    "a brave girl",
    "a quiet boy",
    "a green frog",
    "a kind teacher",
]
_WHERE = [
    "in a small village",
    "near the sea",
    "in a deep forest",
    "on a high mountain",
    "in a big city",
    "by a quiet river",
    "in an old house",
    "on a tiny island",
]
_WANTED = [
    "wanted to see the world",
    "looked for a friend",
    "liked to count the stars",
    "wished for a warm coat",
    "wanted to learn to read",
    "searched for a lost key",
]
_THEN = [
    "One day it began to rain.",
    "One morning the sun was very bright.",
    "One night there was a knock at the door.",
    "Then a bird came by and said hello.",
    "After a while the road came to an end.",
    "On Monday a letter arrived.",
]
_END = [
    "In the end all was well.",
    "And so they became friends.",
    "That was a good day.",
    "Everyone was happy.",
    "From then on they met every week.",
]


def plain_text(corpus: Corpus, rng: random.Random) -> str:
    """Return one plain text of one to a dozen sentences."""
    return rng.choice(_KINDS)(corpus, rng)


def _capitals(corpus: Corpus, rng: random.Random) -> str:
    pairs = rng.sample(corpus.skills.capitals, rng.randint(1, 8))
    if rng.random() < 0.3:
        return " ".join(f"{city} is the capital of {country}." for country, city in pairs)
    return " ".join(f"The capital of {country} is {city}." for country, city in pairs)


def _numbers(corpus: Corpus, rng: random.Random) -> str:
    low, step = rng.choice([(1, 1), (1, 1), (rng.randint(0, 50), 1), (2, 2), (10, 10)])
    return join([str(low + step * i) for i in range(rng.randint(5, 25))])


def _sums(corpus: Corpus, rng: random.Random) -> str:
    limit = rng.choice([20, 20, 99])
    pairs = [(rng.randint(0, limit), rng.randint(0, limit)) for _ in range(rng.randint(1, 8))]
    return "\n".join(f"{a} + {b} = {a + b}." for a, b in pairs)


def _lists(corpus: Corpus, rng: random.Random) -> str:
    return rng.choice(
        [
            "The days of the week are " + join(LISTS["day"]),
            "The months of the year are " + join(LISTS["month"]),
            "Some colours are " + join(rng.sample(COLOURS, 6)),
            "The seasons are " + join(SEASONS),
            join(LISTS["day"]),
            join(LISTS["month"]),
        ]
    )


def _story(corpus: Corpus, rng: random.Random) -> str:
    start = rng.choice(["Once upon a time", "Long ago", "Many years ago", "There was a time when"])
    parts = [f"{start} {rng.choice(_WHO)} lived {rng.choice(_WHERE)} and {rng.choice(_WANTED)}."]
    parts += [*rng.sample(_THEN, rng.randint(1, 3)), rng.choice(_END)]
    return " ".join(parts)


def _opposites(corpus: Corpus, rng: random.Random) -> str:
    pairs = rng.sample(corpus.skills.opposites, rng.randint(1, 5))
    return " ".join(f"The opposite of {a} is {b}." for a, b in pairs)


def _interview(corpus: Corpus, rng: random.Random) -> str:
    turns = [corpus.turn(rng) for _ in range(rng.randint(1, 5))]
    first, second = rng.choice([("Question", "Answer"), ("Q", "A"), ("User", "Assistant")])
    return "\n".join(f"{first}: {turn.question}\n{second}: {turn.answer}" for turn in turns)


def _manual(corpus: Corpus, rng: random.Random) -> str:
    topics = rng.sample(corpus.groups["product"], rng.randint(1, 6))
    answers = [rng.choice(topic.answers) for topic in topics]
    return " ".join(answer.replace("{port}", "8080") for answer in answers)


_KINDS: list[Callable[[Corpus, random.Random], str]] = [
    _capitals,
    _capitals,
    _numbers,
    _sums,
    _lists,
    _story,
    _story,
    _opposites,
    _interview,
    _interview,
    _manual,
]
