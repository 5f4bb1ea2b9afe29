"""Generates the training corpus: conversations and plain texts, deterministic by seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tools.train_demo.documents import plain_text
from tools.train_demo.grammar import Grammar
from tools.train_demo.noise import dress
from tools.train_demo.sample import Sample, Turn
from tools.train_demo.skills import SkillSet, fake_word, spell
from tools.train_demo.topics import Book, Topic, load_book
from tools.train_demo.words import INTRODUCTIONS, NAMES, RECALLS

PARAMETERS_MILLIONS = "6"
SYSTEMS = (
    "You are a helpful assistant.",
    "You are demo, the small model bundled with OpenLLM-Server.",
    "You are demo.",
    "You are a friendly assistant. Answer briefly.",
    "Answer in one sentence.",
    "Be brief and polite.",
    "You are a chatbot.",
    "You answer questions about OpenLLM-Server.",
    "You are an AI assistant that helps people.",
)
# Shares of the turns, in percent: whole files or single computed topics.
SHARES = {
    "product": 44,
    "smalltalk": 10,
    "unknown": 11,
    "addition": 14,
    "counting": 8,
    "capitals": 6,
    "countries": 3.5,
    "subtraction": 1.5,
    "comparison": 0.8,
    "next_number": 0.7,
    "unknown_capital": 0.6,
    "days and months": 0.8,
    "colours": 0.6,
    "opposites": 0.5,
}
PRODUCT_FILES = ("product_start", "product_api", "product_cli", "product_facts")
# Topics a newcomer asks most; they get more of the samples.
POPULAR = {
    "start": 3,
    "other_model": 3,
    "port_general": 2,
    "stop": 2,
    "streaming": 2,
    "client": 2,
    "remote": 2,
    "install": 1.5,
    "openai_api": 1.5,
    "api_key": 1.5,
    "several_models": 1.5,
    "terminal_chat": 1.5,
    "unknown": 12,
    "what_is": 1.5,
    "name": 2,
    "abilities": 2,
    "greeting": 2,
    "openai_prefix": 0.4,
    "native": 0.7,
}


class Corpus:
    """Draws samples of the corpus from a seeded random generator."""

    def __init__(self) -> None:
        self.book: Book = load_book(
            ("shared", *PRODUCT_FILES, "smalltalk", "unknown", "keywords", "more")
        )
        skill_book = load_book(("skills", "more_skills"))
        self.grammar = Grammar(self.book.definitions)
        patterns = {
            name: (topic.patterns["q"].train, topic.patterns["q"].held)
            for name, topic in skill_book.topics.items()
        }
        self.skills = SkillSet(self.grammar, patterns)
        self.groups = self._group()

    def _group(self) -> dict[str, list[Topic]]:
        groups: dict[str, list[Topic]] = {"product": [], "smalltalk": [], "unknown": []}
        for name, topic in self.book.topics.items():
            source = self.book.source[name]
            groups["product" if source in PRODUCT_FILES else source].append(topic)
        return groups

    def samples(self, seed: int) -> Iterator[Sample]:
        """Yield samples without end; equal seeds give equal samples."""
        rng = random.Random(seed)
        while True:
            yield self.sample(rng)

    def sample(self, rng: random.Random) -> Sample:
        """Return one conversation (1 to 14 turns) or plain text."""
        draw = rng.random()
        if draw < 0.05:
            return Sample(text=plain_text(self, rng))
        system = rng.choice(SYSTEMS) if rng.random() < 0.2 else None
        if draw < 0.62:
            return Sample((self.turn(rng),), system)
        if draw < 0.96:
            return Sample(tuple(self._talk(rng, rng.choice([2, 2, 2, 3, 3, 4, 5]))), system)
        return Sample(tuple(self._talk(rng, rng.randint(6, 14))), system)

    def _talk(self, rng: random.Random, length: int) -> list[Turn]:
        turns: list[Turn] = []
        name = ""
        if rng.random() < 0.25:
            turns.append(self.topic_turn(self.book.topics["greeting"], rng))
        while len(turns) < length:
            draw = rng.random()
            if draw < 0.12 and not name:
                name = rng.choice(NAMES) if rng.random() < 0.6 else fake_word(rng).capitalize()
                turns.append(_introduce(name, rng))
            elif name and draw < 0.3:
                turns.append(_recall(name, rng))
            else:
                turns.append(self.turn(rng))
                follow = self._follow(turns[-1], rng) if rng.random() < 0.6 else None
                if follow:
                    turns.append(follow)
        return turns

    def _follow(self, last: Turn, rng: random.Random) -> Turn | None:
        """Return a question that only makes sense after the last turn."""
        if last.topic == "capitals":
            country, city = rng.choice(self.skills.capitals)
            pattern = "(and|what about|and what about|how about|and of|and the one of) {c}"
            question = self.grammar.expand(pattern, rng, {"c": country})
            answer = f"The capital of {country} is {city}."
            return Turn(dress(question, rng), answer, "capitals", (f"is {city}.",))
        if last.topic == "addition":
            total = int(last.answer.rstrip(".").rpartition(" ")[2])
            more = rng.randint(0, 20)
            if total + more > 198:
                return None
            pattern = "(plus|and plus|now add|add|and add|and) {b}( more| to that|)"
            question = self.grammar.expand(pattern, rng, {"b": spell(more, rng)})
            answer = f"{total} + {more} = {total + more}."
            return Turn(dress(question, rng, 0), answer, "addition", (f"= {total + more}.",))
        return None

    def turn(self, rng: random.Random, held: bool = False) -> Turn:
        """Return one question and answer of a topic drawn by the shares."""
        group = rng.choices(list(SHARES), list(SHARES.values()))[0]
        if group not in self.groups:
            return self.skill_turn(group, rng, held)
        topics = self.groups[group]
        weights = [POPULAR.get(topic.name, 1) for topic in topics]
        return self.topic_turn(rng.choices(topics, weights)[0], rng, held)

    def skill_turn(self, name: str, rng: random.Random, held: bool = False) -> Turn:
        """Return one turn of a computed topic, its question dressed."""
        turn = self.skills.make(name, rng, held)
        typos = 0.0 if name in ("countries", "unknown_capital") else 0.05
        question = turn.question
        if not held and rng.random() < 0.12:
            question = self._open(question, rng, held=False)
        return Turn(dress(question, rng, typos), turn.answer, turn.topic, turn.facts)

    def topic_turn(self, topic: Topic, rng: random.Random, held: bool = False) -> Turn:
        """Return one turn of a topic of the phrase files."""
        slots = {"fakeword": fake_word(rng), "params": PARAMETERS_MILLIONS}
        if topic.slot == "port":
            slots["port"] = _port(rng)
        question = self.question(topic, rng, held, slots)
        while not held and holds_back(topic, question):
            question = self.question(topic, rng, held, slots)
        typos = 0.04 if held else 0.15
        answer = _fill(rng.choice(topic.answers), slots)
        facts = tuple(_fill(fact, slots) for fact in topic.facts)
        return Turn(dress(question, rng, typos), answer, topic.name, facts)

    def question(self, topic: Topic, rng: random.Random, held: bool, slots: dict[str, str]) -> str:
        """Return an undressed question; held ones use a held-back pattern, frame or both."""
        kinds = [kind for kind, found in topic.patterns.items() if found.train]
        factors = {"kw": 2.5}
        counts = [(len(topic.patterns[k].train) + 2) * factors.get(k, 1.0) for k in kinds]
        kind = rng.choices(kinds, counts)[0]
        held_frame = held and kind != "q" and rng.random() < 0.5
        held_pattern = held and not held_frame
        patterns = topic.patterns[kind]
        if held_pattern and not patterns.held:
            kind = rng.choice([k for k, found in topic.patterns.items() if found.held])
            patterns = topic.patterns[kind]
        choices = patterns.held if held_pattern else patterns.train
        text = self.grammar.expand(rng.choice(choices), rng, slots)
        if kind != "q":
            frames = self.book.frames[kind]
            frame = rng.choice(frames.held if held_frame else frames.train)
            text = self.grammar.expand(frame, rng, {kind: text})
        if rng.random() < 0.18:
            text = self._open(text, rng, held=False)
        return text

    def _open(self, text: str, rng: random.Random, held: bool) -> str:
        frames = self.book.frames["open"]
        frame = rng.choice(frames.held if held else frames.train)
        return self.grammar.expand(frame, rng, {"q": text})


def holds_back(topic: Topic, question: str) -> bool:
    """Say whether a question contains a held-back pattern of its topic word for word."""
    held = (line for patterns in topic.patterns.values() for line in patterns.held)
    return any(line in question for line in held)


def _fill(text: str, slots: dict[str, str]) -> str:
    for name, value in slots.items():
        text = text.replace("{" + name + "}", value)
    return text


def _port(rng: random.Random) -> str:
    usual = ["8080", "8000", "3000", "80", "9000", "5001", "8888", "4000", "7860", "8443"]
    return rng.choice(usual) if rng.random() < 0.25 else str(rng.randint(1024, 65535))


def _introduce(name: str, rng: random.Random) -> Turn:
    question = rng.choice(INTRODUCTIONS).replace("{n}", name)
    return Turn(dress(question, rng, 0), f"Nice to meet you, {name}!", "memory", (name,))


def _recall(name: str, rng: random.Random) -> Turn:
    answer = f"Your name is {name}."
    return Turn(dress(rng.choice(RECALLS), rng, 0.05), answer, "memory", (answer,))
