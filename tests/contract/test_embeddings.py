"""Embeddings: of unit length, in order, the same every time."""

from __future__ import annotations

import asyncio
import math
from array import array
from contextlib import suppress

import pytest

from openllm.errors import ContextLengthError, InvalidRequestError, UnsupportedError
from tests.contract.subject import PROMPTS, Subject

pytestmark = [pytest.mark.anyio, pytest.mark.reliability("C-21")]


def cosine(one: bytes, other: bytes) -> float:
    return sum(a * b for a, b in zip(array("f", one), array("f", other), strict=True))


async def test_vectors_have_unit_length_and_one_size(embedder: Subject) -> None:
    output = await embedder.engine.embed(PROMPTS)
    assert len(output.vectors) == len(PROMPTS)
    assert len({len(vector) for vector in output.vectors}) == 1
    for vector in output.vectors:
        assert math.hypot(*array("f", vector)) == pytest.approx(1.0, abs=1e-3)


async def test_a_batch_keeps_its_order(embedder: Subject) -> None:
    alone = [(await embedder.engine.embed([prompt])).vectors[0] for prompt in PROMPTS]
    batch = (await embedder.engine.embed(PROMPTS)).vectors
    turned = (await embedder.engine.embed(PROMPTS[::-1])).vectors[::-1]
    for one, two, three in zip(alone, batch, turned, strict=True):
        assert cosine(one, two) >= 0.9999
        assert cosine(one, three) >= 0.9999
    assert cosine(alone[0], alone[1]) < 0.9999


async def test_requests_at_the_same_time_do_not_change_each_other(embedder: Subject) -> None:
    alone = [(await embedder.engine.embed([prompt])).vectors[0] for prompt in PROMPTS]
    for _ in range(3):
        talk = asyncio.create_task(chatter(embedder))
        outputs = await asyncio.gather(*(embedder.engine.embed([prompt]) for prompt in PROMPTS))
        await talk
        for one, output in zip(alone, outputs, strict=True):
            assert cosine(one, output.vectors[0]) >= 0.9999


async def chatter(embedder: Subject) -> None:
    """Keep the engine busy with text, if it makes any while it embeds."""
    with suppress(UnsupportedError):
        await embedder.greedy(PROMPTS[1], 24)


async def test_tokens_are_counted_and_may_be_given_as_ids(embedder: Subject) -> None:
    ids = tuple(await embedder.encode(PROMPTS[0]))
    output = await embedder.engine.embed([PROMPTS[0], ids])
    assert output.prompt_tokens == 2 * len(ids)
    assert cosine(*output.vectors) >= 0.9999


@pytest.mark.parametrize("bad", ["", (), (-1,), (10**9,)], ids=repr)
async def test_inputs_that_are_none_are_refused(
    embedder: Subject, bad: str | tuple[int, ...]
) -> None:
    with pytest.raises(InvalidRequestError):
        await embedder.engine.embed(["a", bad])
    assert len((await embedder.engine.embed(["a"])).vectors) == 1


async def test_an_input_that_is_too_long_is_refused_with_both_numbers(embedder: Subject) -> None:
    most = embedder.engine.capabilities.max_embedding_tokens
    assert most >= 1
    assert len((await embedder.engine.embed([await embedder.prompt_of(most)])).vectors) == 1
    with pytest.raises(ContextLengthError) as caught:
        await embedder.engine.embed([await embedder.prompt_of(most + 1)])
    assert str(most + 1) in caught.value.message
    assert str(most) in caught.value.message
