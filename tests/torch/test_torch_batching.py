"""Continuous batching on a real model, against transformers' own forward pass."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.torch.greedy import FOLDER, NEW, engine, greedy, tokens


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    chance = random.Random(5)
    return [[chance.randrange(10, 4000) for _ in range(chance.randint(3, 60))] for _ in range(16)]


@pytest.fixture(scope="module")
def expected(prompts: list[list[int]]) -> list[list[int]]:
    """What the model says to each prompt alone, without any cache."""
    torch.set_num_threads(1)  # Threads that wait for each other by spinning take long when busy.
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
@pytest.mark.reliability("C-12", "C-22")
async def test_whoever_leaves_at_whatever_step_changes_nothing_for_the_others(
    prompts: list[list[int]], expected: list[list[int]]
) -> None:
    """Rows that are cut off, more rows than places and a full cache, all at once."""
    chance = random.Random(7)

    async def cut_off(made: Any, prompt: list[int]) -> None:
        task = asyncio.create_task(greedy(made, prompt, chance.random()))
        await asyncio.wait([task], timeout=chance.random())
        task.cancel()
        await asyncio.wait([task])

    async with engine(
        kv_cache_tokens=600, context_length=160, max_concurrency=6, prefill_chunk=20
    ) as made:
        said = await asyncio.gather(
            *(greedy(made, prompt, chance.random()) for prompt in prompts),
            *(cut_off(made, chance.choice(prompts)) for _ in range(60)),
        )
        again = await tokens(made, prompts[0])
    assert [each[0] for each in said[: len(prompts)] if each] == expected
    assert again == expected[0]


@pytest.mark.anyio
async def test_the_cache_never_holds_more_than_it_may(prompts: list[list[int]]) -> None:
    """Many rows, then a long one: as many rows as ever, as long as the longest, do not fit."""
    async with engine(kv_cache_tokens=1000, context_length=400, max_concurrency=16) as made:
        batch = made._session.scheduler._batch
        most = 0

        async def watch() -> None:
            nonlocal most
            while made.active or not most:
                most = max(most, batch._window.held)
                await asyncio.sleep(0)

        short = (greedy(made, prompt[:4], max_tokens=8) for prompt in prompts)
        await asyncio.gather(watch(), *short, greedy(made, prompts[0], max_tokens=330))
    assert 300 < most <= 1000


@pytest.mark.anyio
async def test_more_sequences_than_places_are_all_made(
    prompts: list[list[int]], expected: list[list[int]]
) -> None:
    async with engine(max_concurrency=2) as made:
        said, usage = await greedy(made, prompts[0], n=5)
    assert len(said) == 5 * NEW
    assert usage.completion_tokens == NEW


@pytest.mark.anyio
async def test_a_context_beyond_what_the_model_was_made_for_is_cut_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with engine(context_length=100_000) as made:
        made_for = made.model.config.max_position_embeddings
        assert made.capabilities.context_length == made_for
    assert f"context_length 100000 is more than the {made_for} that model demo" in caplog.text
