"""Continuous batching on a real model, against transformers' own forward pass."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import openllm
from openllm.config.model import LoadOptions
from openllm.engines import create_engine
from openllm.types import GenerateRequest, LocalModel, SamplingParams, Usage

FOLDER = Path(openllm.__file__).parent / "demo" / "safetensors"
NEW = 24


@asynccontextmanager
async def engine(**options: Any) -> AsyncIterator[Any]:
    model = LocalModel(name="demo", path=str(FOLDER), format="safetensors")
    made = create_engine("torch", model, LoadOptions(dtype="float32", threads=1, **options))
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def greedy(
    engine: Any, prompt: Sequence[int], delay: float = 0.0, **params: Any
) -> tuple[list[int], Usage]:
    await asyncio.sleep(delay)
    asked = {"max_tokens": NEW, "temperature": 0.0, "ignore_eos": True} | params
    request = GenerateRequest(request_id="r", prompt=tuple(prompt), params=SamplingParams(**asked))
    ids: list[int] = []
    usage = Usage(0, 0)
    async with aclosing(engine.generate(request)) as chunks:
        async for chunk in chunks:
            ids += chunk.token_ids
            usage = chunk.usage or usage
    return ids, usage


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    chance = random.Random(5)
    return [[chance.randrange(10, 4000) for _ in range(chance.randint(3, 60))] for _ in range(16)]


@pytest.fixture(scope="module")
def expected(prompts: list[list[int]]) -> list[list[int]]:
    """What the model says to each prompt alone, without any cache."""
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    return [_continue(model, prompt) for prompt in prompts]


def _continue(model: Any, prompt: list[int]) -> list[int]:
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(NEW):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.anyio
@pytest.mark.spec("S1-32")
@pytest.mark.reliability("C-12")
async def test_alone_in_a_batch_and_joining_late_say_the_same(
    prompts: list[list[int]], expected: list[list[int]]
) -> None:
    async with engine() as made:
        alone = [(await greedy(made, prompt))[0] for prompt in prompts]
        together = await asyncio.gather(*(greedy(made, prompt) for prompt in prompts))
        chance = random.Random(1)
        late = await asyncio.gather(
            *(greedy(made, prompt, chance.random()) for prompt in reversed(prompts))
        )
    assert alone == expected
    assert [ids for ids, _ in together] == expected
    assert [ids for ids, _ in reversed(late)] == expected


@pytest.mark.anyio
async def test_prompts_read_by_chunks_say_the_same(
    prompts: list[list[int]], expected: list[list[int]]
) -> None:
    async with engine(prefill_chunk=7) as made:
        said = await asyncio.gather(*(greedy(made, prompt) for prompt in prompts))
    assert [ids for ids, _ in said] == expected


@pytest.mark.anyio
async def test_requests_beyond_the_cache_wait_and_are_read_again(
    prompts: list[list[int]], expected: list[list[int]]
) -> None:
    async with engine(kv_cache_tokens=400, context_length=160) as made:
        said = await asyncio.gather(*(greedy(made, prompt) for prompt in prompts))
        assert made.active == 0
    assert [ids for ids, _ in said] == expected


@pytest.mark.anyio
async def test_a_conversation_reads_only_its_new_end(
    prompts: list[list[int]], expected: list[list[int]]
) -> None:
    long = max(prompts, key=len)
    answer = expected[prompts.index(long)]
    async with engine() as made:
        first, usage = await greedy(made, long)
        again, second = await greedy(made, [*long, *answer, 17, 18])
        fresh, _ = await greedy(made, [19, *long, *answer, 17, 18])
    assert first == answer
    assert usage.cached_tokens == 0
    assert second.cached_tokens == len(long) + len(answer) - 1
    assert second.prompt_tokens == len(long) + len(answer) + 2
    async with engine() as made:
        assert (await greedy(made, [*long, *answer, 17, 18]))[0] == again
        assert (await greedy(made, [19, *long, *answer, 17, 18]))[0] == fresh


@pytest.mark.anyio
async def test_more_sequences_than_places_are_all_made(
    prompts: list[list[int]], expected: list[list[int]]
) -> None:
    async with engine(max_concurrency=2) as made:
        said, usage = await greedy(made, prompts[0], n=5)
    assert len(said) == 5 * NEW
    assert usage.completion_tokens == NEW
