"""Closing a stream stops the work, wherever it stands, and leaves the engine as it was."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.contract.subject import PROMPTS, Subject, request
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def free(subject: Subject) -> None:
    """Wait until the engine works on nothing; it takes a moment, and on a busy machine seconds."""
    await until(lambda: not subject.busy())


async def read(subject: Subject, chunks: int, **params: int) -> None:
    """Read some chunks of a long answer, then close its stream."""
    stream = subject.engine.generate(request(PROMPTS[0], ignore_eos=True, **params))
    for _ in range(chunks):
        await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]


@pytest.mark.reliability("F-01", "C-22")
@pytest.mark.parametrize("chunks", [0, 1, 2, 20])
async def test_a_closed_stream_frees_its_place(subject: Subject, chunks: int) -> None:
    before = await subject.greedy(PROMPTS[1], 12)
    await read(subject, chunks, n=2)
    await free(subject)
    assert (await subject.greedy(PROMPTS[1], 12)).token_ids == before.token_ids


@pytest.mark.reliability("F-01", "C-22")
async def test_two_hundred_aborts_at_random_points_leak_nothing(subject: Subject) -> None:
    before = await subject.greedy(PROMPTS[1], 12)
    dice = random.Random(1)
    places = asyncio.Semaphore(6)  # More than the engine has, so that some are cut while waiting.

    async def abort() -> None:
        async with places:
            task = asyncio.create_task(read(subject, 400, n=dice.choice((1, 1, 2))))
            await asyncio.wait([task], timeout=dice.choice((0.0, 0.001, 0.01, 0.05)))
            task.cancel()
            await asyncio.wait([task])

    await asyncio.gather(*(abort() for _ in range(200)))
    await free(subject)
    everywhere = await asyncio.gather(
        *(
            subject.greedy(PROMPTS[1], 12)
            for _ in range(subject.engine.capabilities.max_concurrency)
        )
    )
    assert [answer.token_ids for answer in everywhere] == [before.token_ids] * len(everywhere)


@pytest.mark.reliability("F-01")
async def test_a_request_that_waits_can_be_cancelled(subject: Subject) -> None:
    places = subject.engine.capabilities.max_concurrency
    running = [asyncio.create_task(read(subject, 300, n=1)) for _ in range(places)]
    await asyncio.sleep(0)
    waiting = asyncio.create_task(subject.greedy(PROMPTS[1], 12))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await asyncio.gather(*running)
    await free(subject)


@pytest.mark.reliability("C-06", "F-01")
async def test_other_streams_go_on(subject: Subject) -> None:
    alone = await subject.greedy(PROMPTS[2], 40)
    task = asyncio.create_task(subject.greedy(PROMPTS[2], 40))
    for chunks in (0, 1, 3):
        await read(subject, chunks, n=1)
    assert (await task).token_ids == alone.token_ids
