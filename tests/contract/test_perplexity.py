"""Every engine with real weights gives a fixed text the perplexity that the weights have.

An engine tells the logprobs of the tokens that it chooses, as the model has them whatever the bias:
each token of the text is chosen by one, behind those before it in its window.
"""

from __future__ import annotations

import asyncio
import math
import random
from itertools import chain

import pytest

from tests.contract.reference import ReferenceLlama
from tests.contract.subject import DEMO_FOLDER, Subject
from tools.train_demo.corpus import Corpus
from tools.train_demo.documents import plain_text

pytestmark = pytest.mark.anyio

ENGINES = ("demo", "torch", "vllm")
WITHIN = 0.01
"""Of the reference in float32; the 8-bit weights of the bundled GGUF file keep to it, too."""

TOKENS, WINDOW = 2048, 64


@pytest.mark.reliability("C-26")
async def test_the_perplexity_is_that_of_the_weights(subject: Subject) -> None:
    ids = (await subject.encode(known_text()))[:TOKENS]
    assert len(ids) == TOKENS
    windows = [ids[at : at + WINDOW] for at in range(0, TOKENS, WINDOW)]
    engine = await asyncio.gather(*(logprobs(subject, window) for window in windows))
    reference = ReferenceLlama(DEMO_FOLDER)
    exact = [reference.logprobs(window).tolist() for window in windows]
    assert perplexity(engine) == pytest.approx(perplexity(exact), rel=WITHIN)


def known_text() -> str:
    """Return text of the kind that the model was trained on, the same every time."""
    corpus, dice = Corpus(), random.Random(0)
    return "\n".join(plain_text(corpus, dice) for _ in range(80))


def perplexity(windows: list[list[float]]) -> float:
    values = list(chain.from_iterable(windows))
    return math.exp(-math.fsum(values) / len(values))


async def logprobs(subject: Subject, window: list[int]) -> list[float]:
    """Return those of a window's tokens but the first."""
    values = []
    for at, token in enumerate(window[1:], 1):
        answer = await subject.greedy(
            tuple(window[:at]), 1, logprobs=0, logit_bias={token: 100.0}, ignore_eos=True
        )
        assert answer.token_ids == [token]
        values.append(answer.logprobs[0].logprob)
    return values
