"""A model that was loaded to embed: unit vectors in order, and no text."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import AsyncIterator

import pytest

from openllm.engines.vllm_engine import VLLMEngine
from openllm.errors import ContextLengthError, InvalidRequestError, UnsupportedError
from tests.vllm.serving import ask, started

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

INPUTS = ("Once upon a time", "The capital of France", "naïve 日本語", "one two three")


@pytest.fixture(scope="module")
async def pooling(anyio_backend: str) -> AsyncIterator[VLLMEngine]:
    async with started(engine_arg=("runner=pooling",), context_length=100_000) as engine:
        yield engine


def cosine(one: bytes, other: bytes) -> float:
    return sum(a * b for a, b in zip(array("f", one), array("f", other), strict=True))


async def test_it_says_what_it_offers(pooling: VLLMEngine) -> None:
    offered = pooling.capabilities
    assert offered.max_embedding_tokens == offered.context_length == 1024  # The model's own.
    assert not offered.structured_output
    with pytest.raises(UnsupportedError, match="loaded to embed"):
        await ask(pooling, "a")


@pytest.mark.reliability("C-21")
async def test_vectors_have_unit_length_and_keep_their_order(pooling: VLLMEngine) -> None:
    alone = [(await pooling.embed([text])).vectors[0] for text in INPUTS]
    both = await asyncio.gather(pooling.embed(INPUTS), pooling.embed(INPUTS[::-1]))
    for vectors in (both[0].vectors, both[1].vectors[::-1]):
        for one, other in zip(alone, vectors, strict=True):
            assert math.hypot(*array("f", other)) == pytest.approx(1.0, abs=1e-3)
            assert cosine(one, other) >= 0.9999
    assert cosine(alone[0], alone[1]) < 0.9999


@pytest.mark.reliability("C-21")
async def test_tokens_are_counted_and_may_be_given_as_ids(pooling: VLLMEngine) -> None:
    ids = tuple(await pooling.tokenize(INPUTS[0], special=True))
    output = await pooling.embed([INPUTS[0], ids])
    assert output.prompt_tokens == 2 * len(ids)
    assert cosine(*output.vectors) >= 0.9999


@pytest.mark.reliability("C-21")
@pytest.mark.parametrize("bad", ["", (), (-1,), (10**9,)], ids=repr)
async def test_inputs_that_are_none_are_refused(
    pooling: VLLMEngine, bad: str | tuple[int, ...]
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await pooling.embed(["a", bad])
    assert caught.value.param == "input"


async def test_an_input_that_is_too_long_is_refused(pooling: VLLMEngine) -> None:
    with pytest.raises(ContextLengthError, match=r"1025 tokens.* at most 1024"):
        await pooling.embed([(5,) * 1025])
    assert len((await pooling.embed([(5,) * 1024])).vectors) == 1
