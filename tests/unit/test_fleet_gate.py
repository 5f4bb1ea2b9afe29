"""The queue in front of a model."""

from __future__ import annotations

import asyncio

import pytest

from openllm.errors import EngineUnavailableError, OverloadedError
from openllm.fleet.gate import Gate

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
