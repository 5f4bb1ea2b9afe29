"""Checks that llama.cpp and transformers give equal greedy answers for an export."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from tools.train_demo.corpus import Corpus
from tools.train_demo.engine import Engine, LlamaCpp, Transformers
from tools.train_demo.export import write_gguf
from tools.train_demo.train import load


def agreement(left: Engine, right: Engine, questions: list[str]) -> tuple[int, list[str]]:
    """Return how many answers are equal, and the questions whose answers differ."""
    differing = []
    for question in questions:
        messages = [{"role": "user", "content": question}]
        if left.chat(messages) != right.chat(messages):
            differing.append(question)
    return len(questions) - len(differing), differing


def verify(checkpoint: Path, tokenizer: Path, out: Path, count: int = 100) -> None:
    """Compare transformers with the Q8_0 file and with an F32 file of the same weights."""
    corpus, rng = Corpus(), random.Random(5)
    questions = [corpus.turn(rng, held=rng.random() < 0.5).question for _ in range(count)]
    questions += ["Grüße aus Zürich, 你好 👋", "x = {'a': 1}\n\tprint(x)  # 12345"]
    reference = Transformers(out / "safetensors")
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "demo-f32.gguf"
        write_gguf(load(checkpoint)[0], tokenizer, exact, "F32")
        for name, path in (("F32", exact), ("Q8_0", out / "demo-q8_0.gguf")):
            equal, differing = agreement(LlamaCpp(path), reference, questions)
            print(f"{name}: {equal} of {len(questions)} greedy answers equal", differing[:5])
