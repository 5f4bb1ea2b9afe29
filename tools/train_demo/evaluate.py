"""Scores an exported model on held-back phrasings and on questions written by hand."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.train_demo.corpus import PARAMETERS_MILLIONS, Corpus
from tools.train_demo.engine import Engine, LlamaCpp
from tools.train_demo.sample import Turn
from tools.train_demo.topics import PHRASES

COMPLETIONS = (
    ("The capital of France is", " Paris."),
    ("The capital of Japan is", " Tokyo."),
    ("1, 2, 3, 4, 5,", " 6, 7, 8"),
    ("The days of the week are Monday,", " Tuesday, Wednesday"),
    ("7 + 5 =", " 12."),
    ("The opposite of hot is", " cold."),
    ("Once upon a time", " "),
)
TALKS = (
    (("my name is Clara", "Clara"), ("what is 3 + 4?", "= 7."), ("what is my name?", "Clara")),
    (
        ("What is the capital of Spain?", "Madrid"),
        ("and of Norway?", "Oslo"),
        ("how do I stop the server?", "Ctrl-C"),
    ),
    (
        ("hello", "Hello"),
        ("how do I use another port?", "--port"),
        ("count to 5", "1, 2, 3, 4, 5."),
        ("thanks!", "welcome"),
    ),
    (("12 + 5", "= 17."), ("plus 3", "= 20."), ("bye", "Goodbye")),
    (("who are you?", "demo"), ("what can you do?", "count"), ("tell me a joke", "server")),
)


@dataclass(frozen=True)
class Result:
    """One scored answer."""

    group: str
    topic: str
    question: str
    answer: str
    right: bool


def right(answer: str, facts: tuple[str, ...]) -> bool:
    """Say whether every fact appears in the answer, whatever the case."""
    return all(fact.lower() in answer.lower() for fact in facts)


def held_turns(corpus: Corpus, per_product_topic: int, seed: int = 99) -> list[tuple[str, Turn]]:
    """Return held-back questions with the group each belongs to."""
    rng = random.Random(seed)
    turns: list[tuple[str, Turn]] = []
    for group, topics in corpus.groups.items():
        for topic in topics:
            count = per_product_topic * (6 if topic.name == "unknown" else 1)
            turns += [(group, corpus.topic_turn(topic, rng, held=True)) for _ in range(count)]
    for name in corpus.skills.names():
        count = per_product_topic * 4
        turns += [(name, corpus.skill_turn(name, rng, held=True)) for _ in range(count)]
    return turns


def all_sums() -> list[Turn]:
    """Return every sum of 0..20 and 0..20 in one plain wording."""
    return [
        Turn(f"What is {a} + {b}?", "", "addition", (f"= {a + b}.",))
        for a in range(21)
        for b in range(21)
    ]


def all_capitals(corpus: Corpus) -> list[Turn]:
    """Return one question for each country."""
    return [
        Turn(f"What is the capital of {country}?", "", "capitals", (f"is {city}.",))
        for country, city in corpus.skills.capitals
    ]


def unseen_turns(corpus: Corpus, name: str = "unseen") -> list[Turn]:
    """Return the questions written by hand with the facts of their topics."""
    turns = []
    slots = {"{params}": PARAMETERS_MILLIONS, "{port}": "9191"}
    for line in (PHRASES / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        topic, _, question = line.partition("|")
        facts = []
        for fact in corpus.book.topics[topic].facts:
            for slot, value in slots.items():
                fact = fact.replace(slot, value)
            facts.append(fact)
        turns.append(Turn(question, "", topic, tuple(facts)))
    return turns


def ask(engine: Engine, group: str, turn: Turn) -> Result:
    """Ask one question greedily and score the answer."""
    answer = engine.chat([{"role": "user", "content": turn.question}])
    return Result(group, turn.topic, turn.question, answer, right(answer, turn.facts))


def score_talks(engine: Engine) -> list[Result]:
    """Score conversations of several turns, each with the model's own history."""
    results = []
    for talk in TALKS:
        messages: list[dict[str, str]] = []
        for question, fact in talk:
            messages.append({"role": "user", "content": question})
            answer = engine.chat(messages)
            messages.append({"role": "assistant", "content": answer})
            results.append(
                Result("conversations", "history", question, answer, right(answer, (fact,)))
            )
    return results


def score(engine: Engine, corpus: Corpus, per_topic: int) -> list[Result]:
    """Score every group."""
    results = [
        ask(engine, f"held-back: {group}", turn) for group, turn in held_turns(corpus, per_topic)
    ]
    results += [ask(engine, "all sums 0..20 + 0..20", turn) for turn in all_sums()]
    results += [ask(engine, "all capitals", turn) for turn in all_capitals(corpus)]
    for name, label in (("unseen", "by hand"), ("unseen_late", "by hand, second set")):
        for turn in unseen_turns(corpus, name):
            source = corpus.book.source[turn.topic]
            kind = source if source in ("smalltalk", "unknown") else "product"
            results.append(ask(engine, f"{label}: {kind}", turn))
    results += score_talks(engine)
    for prompt, expected in COMPLETIONS:
        answer = engine.complete(prompt)
        results.append(
            Result("plain completion", "completion", prompt, answer, answer.startswith(expected))
        )
    return results


def table(results: list[Result], key: str) -> str:
    """Return a text table of the share of right answers by ``group`` or ``topic``."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for result in results:
        counts[getattr(result, key)][0] += result.right
        counts[getattr(result, key)][1] += 1
    lines = [
        f"{name:32s} {good:5d} / {total:<5d} {100 * good / total:6.1f} %"
        for name, (good, total) in sorted(counts.items())
    ]
    return "\n".join(lines)


def evaluate(path: Path, questions: int, report: Path | None) -> None:
    """Score a GGUF file with about ``questions`` held-back product questions; print and save."""
    corpus = Corpus()
    per_topic = max(1, round(questions / len(corpus.groups["product"])))
    results = score(LlamaCpp(path), corpus, per_topic)
    print(table(results, "group"))
    product = [result for result in results if result.group == "held-back: product"]
    print("\nheld-back product questions by topic\n" + table(product, "topic"))
    if report:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
