"""Permits are handed out in order, whole, and none is lost by cancelling."""

from __future__ import annotations

import asyncio
import random

import pytest

from openllm.engines.llamacpp_slots import Slots

pytestmark = pytest.mark.anyio


async def test_a_waiter_for_many_is_not_overtaken() -> None:
    slots = Slots(4)
    order: list[str] = []

    async def take(name: str, count: int) -> None:
        await slots.acquire(count)
        order.append(name)

    await slots.acquire(3)
    many = asyncio.create_task(take("many", 4))
    await asyncio.sleep(0)
    few = asyncio.create_task(take("few", 1))
    await asyncio.sleep(0)
    assert (order, slots.free, slots.waiting) == ([], 1, 5)
    slots.release(3)
    await many
    assert order == ["many"]
    slots.release(4)
    await few
    assert (order, slots.free, slots.waiting) == (["many", "few"], 3, 0)


async def test_cancelling_the_first_in_the_queue_lets_the_next_go() -> None:
    slots = Slots(2)
    await slots.acquire(1)
    first = asyncio.create_task(slots.acquire(2))
    await asyncio.sleep(0)
    second = asyncio.create_task(slots.acquire(1))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert (slots.free, slots.waiting) == (0, 0)


async def test_a_permit_granted_to_a_cancelled_waiter_comes_back() -> None:
    slots = Slots(1)
    await slots.acquire(1)
    waiter = asyncio.create_task(slots.acquire(1))
    await asyncio.sleep(0)
    slots.release(1)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert slots.free == 1


async def test_a_waiter_cancelled_in_the_turn_of_a_release_gets_nothing() -> None:
    slots = Slots(1)
    await slots.acquire(1)
    waiter = asyncio.create_task(slots.acquire(1))
    await asyncio.sleep(0)
    waiter.cancel()
    slots.release(1)
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert (slots.free, slots.waiting) == (1, 0)


async def test_no_permit_is_lost_whatever_happens() -> None:
    rng = random.Random(7)
    slots = Slots(5)

    async def use() -> None:
        count = rng.randint(1, 5)
        await slots.acquire(count)
        try:
            for _ in range(rng.randint(0, 3)):
                await asyncio.sleep(0)
        finally:
            slots.release(count)

    tasks = [asyncio.create_task(use()) for _ in range(500)]
    for task in tasks:
        if rng.random() < 0.5:
            task.cancel()
        if rng.random() < 0.5:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (slots.free, slots.waiting) == (5, 0)
