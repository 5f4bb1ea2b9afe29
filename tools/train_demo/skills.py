"""Questions with computed answers: counting, sums, comparisons, capitals, lists, opposites."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tools.train_demo.grammar import Grammar
from tools.train_demo.sample import Turn
from tools.train_demo.topics import load_pairs
from tools.train_demo.words import (
    CODAS,
    COLOURS,
    ENDINGS,
    LISTS,
    MIXES,
    ONSETS,
    SEASONS,
    VOWELS,
    WORDS,
)


@dataclass
class SkillSet:
    """Makes turns of computed topics; ``held`` selects the held-back patterns."""

    grammar: Grammar
    patterns: Mapping[str, tuple[list[str], list[str]]]
    capitals: list[tuple[str, str]] = field(default_factory=lambda: load_pairs("capitals"))
    opposites: list[tuple[str, str]] = field(default_factory=lambda: load_pairs("opposites"))

    def names(self) -> list[str]:
        """Return the names of the topics that ``make`` knows."""
        return sorted(_MAKERS)

    def make(self, name: str, rng: random.Random, held: bool = False) -> Turn:
        """Return one random turn of a topic; raises KeyError for an unknown topic."""
        return _MAKERS[name](self, rng, held)

    def ask(self, key: str, rng: random.Random, held: bool, **slots: str) -> str:
        """Return a question of a pattern group with its slots filled."""
        choices = self.patterns[key][1 if held else 0]
        return self.grammar.expand(rng.choice(choices), rng, slots)


def spell(number: int, rng: random.Random, share: float = 0.15) -> str:
    """Write a number in digits, or (for a share of those up to 20) as a word."""
    if 0 <= number < len(WORDS) and rng.random() < share:
        return WORDS[number]
    return str(number)


def join(items: list[str]) -> str:
    """Return ``a, b, c.``"""
    return ", ".join(items) + "."


def _count(skills: SkillSet, rng: random.Random, held: bool) -> Turn:
    kind = rng.choices(["count_to", "count_from", "count_back", "count_step"], [5, 5, 3, 2])[0]
    low, step = 1, 1
    if kind == "count_to":
        high = rng.choice([3, 4, 5, 5, 6, 7, 8, 9, 10, 10, 10, 11, 12, 13, 14, 15, 16, 18, 20, 20])
        high = high if rng.random() < 0.8 else rng.randint(2, 30)
        numbers = list(range(1, high + 1))
    elif kind == "count_from":
        low = rng.randint(0, 30)
        high = low + rng.randint(2, 12)
        numbers = list(range(low, high + 1))
    elif kind == "count_back":
        high = rng.choice([3, 4, 5, 5, 6, 7, 8, 9, 10, 10, 12, 15, 20])
        low = rng.choice([1, 1, 1, 0, max(0, high - 5)])
        numbers = list(range(high, low - 1, -1))
    else:
        step = rng.choice([2, 2, 2, 5, 10])
        high = step * rng.randint(3, 10)
        numbers = list(range(step, high + 1, step))
    words = {"low": spell(low, rng), "high": spell(high, rng), "step": spell(step, rng, 0.5)}
    plural = {2: "twos", 5: "fives", 10: "tens", 1: "ones"}[step]
    if kind == "count_back":
        kind = "count_down" if low == 1 else "count_back"
    question = skills.ask(kind, rng, held, **words, steps=plural)
    answer = ", ".join(map(str, numbers)) + "."
    return Turn(question, answer, "counting", (answer,))


def _add(skills: SkillSet, rng: random.Random, held: bool) -> Turn:
    limit = 20 if held or rng.random() < 0.75 else 99
    left, right = rng.randint(0, limit), rng.randint(0, limit)
    question = skills.ask("add", rng, held, a=spell(left, rng), b=spell(right, rng))
    fact = f"= {left + right}."
    return Turn(question, f"{left} + {right} {fact}", "addition", (fact,))


def _subtract(skills: SkillSet, rng: random.Random, held: bool) -> Turn:
    left = rng.randint(0, 20)
    right = rng.randint(0, left)
    question = skills.ask("subtract", rng, held, a=spell(left, rng), b=spell(right, rng))
    return Turn(
        question, f"{left} - {right} = {left - right}.", "subtraction", (f"= {left - right}.",)
    )


def _compare(skills: SkillSet, rng: random.Random, held: bool) -> Turn:
    limit = rng.choice([20, 100, 100])
    left, right = rng.sample(range(limit), 2)
    kind = rng.choice(["larger", "smaller"])
    best = max(left, right) if kind == "larger" else min(left, right)
    other = left + right - best
    question = skills.ask(kind, rng, held, a=str(left), b=str(right))
    return Turn(question, f"{best} is {kind} than {other}.", "comparison", (f"{best} is {kind}",))


def _next_number(skills: SkillSet, rng: random.Random, held: bool) -> Turn:
    number = rng.randint(0, 60)
    if rng.random() < 0.6:
        question = skills.ask("after", rng, held, x=spell(number, rng))
        return Turn(
            question, f"After {number} comes {number + 1}.", "counting", (f"comes {number + 1}.",)
        )
    question = skills.ask("before", rng, held, x=spell(number + 1, rng))
    return Turn(question, f"Before {number + 1} comes {number}.", "counting", (f"comes {number}.",))


def _capital(skills: SkillSet, rng: random.Random, held: bool) -> Turn:
    country, city = rng.choice(skills.capitals)
    short = country.removeprefix("the ") if rng.random() < 0.3 else country
    question = skills.ask("capital", rng, held, country=short)
    answer = f"The capital of {country} is {city}."
    return Turn(question, answer, "capitals", (f"is {city}.",))


def _country(skills: SkillSet, rng: random.Random, held: bool) -> Turn:
    country, city = rng.choice(skills.capitals)
    question = skills.ask("country", rng, held, city=city)
    return Turn(
        question, f"{city} is the capital of {country}.", "countries", (f"capital of {country}.",)
    )


def fake_word(rng: random.Random) -> str:
    """Return an invented word such as ``blorvane``."""
    parts = [
        rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS)
        for _ in range(rng.randint(1, 4))
    ]
    return "".join(parts) + rng.choice(ENDINGS)


def _no_capital(skills: SkillSet, rng: random.Random, held: bool) -> Turn:
    name = fake_word(rng).capitalize()
    question = skills.ask("capital", rng, held, country=name)
    answer = f"I don't know the capital of {name}. I am a very small model."
    return Turn(question, answer, "unknown_capital", ("don't know",))


def _lists(skills: SkillSet, rng: random.Random, held: bool) -> Turn:
    kind = rng.choice(["day", "month"])
    items = LISTS[kind]
    if rng.random() < 0.4:
        question = skills.ask("list_" + kind, rng, held)
        return Turn(question, join(items), "days and months", (join(items),))
    index = rng.randrange(len(items))
    word, step = rng.choice([("after", 1), ("before", -1)])
    other = items[(index + step) % len(items)]
    question = skills.ask("neighbour", rng, held, unit=kind, word=word, item=items[index])
    answer = f"{other} comes {word} {items[index]}."
    return Turn(question, answer, "days and months", (f"{other} comes",))


def _colours(skills: SkillSet, rng: random.Random, held: bool) -> Turn:
    kind = rng.choice(["colours", "seasons", "mix", "alphabet"])
    if kind == "mix":
        pair, result = rng.choice(sorted(MIXES.items()))
        first, second = pair.split(" and ")
        if rng.random() < 0.5:
            first, second = second, first
        question = skills.ask("mix", rng, held, a=first, b=second)
        answer = f"{first.capitalize()} and {second} make {result}."
        return Turn(question, answer, "colours", (f"make {result}",))
    items = {"colours": COLOURS, "seasons": SEASONS, "alphabet": list(string.ascii_uppercase)}
    question = skills.ask(kind, rng, held)
    return Turn(question, join(items[kind]), "colours", (join(items[kind]),))


def _opposite(skills: SkillSet, rng: random.Random, held: bool) -> Turn:
    left, right = rng.choice(skills.opposites)
    if rng.random() < 0.5:
        left, right = right, left
    question = skills.ask("opposite", rng, held, word=left)
    return Turn(question, f"The opposite of {left} is {right}.", "opposites", (f"is {right}.",))


_MAKERS: dict[str, Callable[[SkillSet, random.Random, bool], Turn]] = {
    "counting": _count,
    "addition": _add,
    "subtraction": _subtract,
    "comparison": _compare,
    "next_number": _next_number,
    "capitals": _capital,
    "countries": _country,
    "unknown_capital": _no_capital,
    "days and months": _lists,
    "colours": _colours,
    "opposites": _opposite,
}
