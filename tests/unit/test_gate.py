"""The queue: in order, whole, and no unit is lost by cancelling."""

from __future__ import annotations

import asyncio
import random

import pytest

from openllm.errors import EngineUnavailableError, OverloadedError
from openllm.gate import Gate

pytestmark = pytest.mark.anyio


async def hold(gate: Gate, units: int, entered: list[str], name: str, leave: asyncio.Event) -> None:
    async with gate.passage(units):
        entered.append(name)
        await leave.wait()


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_lets_in_up_to_its_capacity_in_order() -> None:
    gate, entered, leave = Gate(10), [], asyncio.Event()
    gate.open(2)
    tasks = [asyncio.create_task(hold(gate, 1, entered, name, leave)) for name in "abc"]
    await turn()
    assert entered == ["a", "b"]
    assert (gate.running, gate.waiting) == (2, 1)
    leave.set()
    await asyncio.gather(*tasks)
    assert entered == ["a", "b", "c"]
    assert (gate.running, gate.waiting) == (0, 0)


async def test_a_wide_request_is_not_overtaken() -> None:
    gate, entered = Gate(10), []
    gate.open(4)
    first, rest = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(hold(gate, 2, entered, "a", first))]
    tasks += [
        asyncio.create_task(hold(gate, units, entered, name, rest))
        for units, name in ((4, "wide"), (1, "c"))
    ]
    await turn()
    assert entered == ["a"]
    first.set()
    await turn()
    assert entered == ["a", "wide"]
    rest.set()
    await asyncio.gather(*tasks)
    assert gate.running == 0


async def test_more_units_than_the_capacity_run_alone() -> None:
    gate, entered, leave = Gate(10), [], asyncio.Event()
    gate.open(2)
    task = asyncio.create_task(hold(gate, 5, entered, "a", leave))
    await turn()
    assert entered == ["a"]
    leave.set()
    await task


async def test_refuses_when_too_many_wait() -> None:
    gate, leave = Gate(1), asyncio.Event()
    gate.open(1)
    tasks = [asyncio.create_task(hold(gate, 1, [], name, leave)) for name in "ab"]
    await turn()
    with pytest.raises(OverloadedError) as refused:
        async with gate.passage(1):
            pass
    assert refused.value.retry_after
    leave.set()
    await asyncio.gather(*tasks)


@pytest.mark.spec("S3-35")
async def test_a_cancelled_waiter_gives_its_place_up() -> None:
    gate, entered, leave = Gate(10), [], asyncio.Event()
    gate.open(1)
    first, second, third = (
        asyncio.create_task(hold(gate, 1, entered, name, leave)) for name in "abc"
    )
    await turn()
    second.cancel()
    await turn()
    assert gate.waiting == 1
    leave.set()
    await asyncio.gather(first, third)
    assert entered == ["a", "c"]
    assert gate.running == 0


async def test_cancelled_in_the_turn_it_was_admitted_loses_nothing() -> None:
    gate, leave = Gate(10), asyncio.Event()
    gate.open(1)
    first = asyncio.create_task(hold(gate, 1, [], "a", leave))
    second = asyncio.create_task(hold(gate, 1, [], "b", leave))
    await turn()
    first.cancel()
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert (gate.running, gate.waiting) == (0, 0)


@pytest.mark.reliability("F-05")
async def test_a_closed_gate_keeps_those_who_wait() -> None:
    gate, entered, leave = Gate(10), [], asyncio.Event()
    gate.open(1)
    tasks = [asyncio.create_task(hold(gate, 1, entered, name, leave)) for name in "ab"]
    await turn()
    gate.close()
    leave.set()
    await turn()
    assert entered == ["a"]
    gate.open(1)
    await asyncio.gather(*tasks)
    assert entered == ["a", "b"]


async def test_refuse_fails_everyone_who_waits() -> None:
    gate = Gate(10)
    task = asyncio.create_task(hold(gate, 1, [], "a", asyncio.Event()))
    await turn()
    gate.refuse(EngineUnavailableError("gone"))
    with pytest.raises(EngineUnavailableError):
        await task
    assert gate.waiting == 0


async def test_units_are_taken_whole_and_counted() -> None:
    gate = Gate()
    gate.open(4)
    await gate.acquire(3)
    many = asyncio.create_task(gate.acquire(4))
    await asyncio.sleep(0)
    few = asyncio.create_task(gate.acquire(1))
    await asyncio.sleep(0)
    assert (gate.running, gate.waiting, gate.asked) == (3, 2, 8)
    gate.release(3)
    await many
    assert (gate.running, few.done()) == (4, False)
    gate.release(4)
    await few
    assert (gate.running, gate.waiting, gate.asked) == (1, 0, 1)


async def test_cancelling_the_first_who_waits_lets_the_next_go() -> None:
    gate = Gate()
    gate.open(2)
    await gate.acquire(1)
    first = asyncio.create_task(gate.acquire(2))
    await asyncio.sleep(0)
    second = asyncio.create_task(gate.acquire(1))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert (gate.running, gate.waiting) == (2, 0)


@pytest.mark.parametrize("released_first", [True, False])
async def test_cancelled_in_the_turn_of_a_release(released_first: bool) -> None:
    gate = Gate()
    gate.open(1)
    await gate.acquire(1)
    waiter = asyncio.create_task(gate.acquire(1))
    await asyncio.sleep(0)
    if released_first:
        gate.release(1)
    waiter.cancel()
    if not released_first:
        gate.release(1)
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert (gate.running, gate.asked) == (0, 0)


async def test_no_unit_is_lost_whatever_happens() -> None:
    rng = random.Random(7)
    gate = Gate()
    gate.open(5)

    async def use() -> None:
        async with gate.passage(rng.randint(1, 5)):
            assert gate.running <= 5
            for _ in range(rng.randint(0, 3)):
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(use()) for _ in range(500)]
    for task in tasks:
        if rng.random() < 0.5:
            task.cancel()
        if rng.random() < 0.5:
            await asyncio.sleep(0)
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(each is None or isinstance(each, asyncio.CancelledError) for each in done)
    assert (gate.running, gate.asked) == (0, 0)
