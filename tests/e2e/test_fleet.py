"""Several models in real processes: queueing, crashes, restarts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from openllm.config.model import LoadOptions, ModelConfig
from openllm.errors import (
    EngineCrashedError,
    EngineUnavailableError,
    ModelNotFoundError,
    OverloadedError,
)
from openllm.fleet import Fleet
from openllm.types import GenerateRequest, LocalModel
from tests.e2e.conftest import ask
from tests.waiting import until

pytestmark = pytest.mark.anyio
Scripted = Callable[..., LocalModel]


@asynccontextmanager
async def started(
    *models: LocalModel, slots: int = 8, max_waiting: int = 512
) -> AsyncIterator[Fleet]:
    config = ModelConfig(load=LoadOptions(max_concurrency=slots))
    fleet = Fleet(models, {model.name: config for model in models}, max_waiting=max_waiting)
    assert not await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.close()


async def text(fleet: Fleet, name: str, request: GenerateRequest) -> str:
    async with aclosing(fleet.generate(name, request)) as chunks:
        return "".join([chunk.text async for chunk in chunks])


def kill(fleet: Fleet, name: str) -> None:
    pid = fleet.pids()[name]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def state(fleet: Fleet, name: str) -> str:
    return fleet.status(name).state


@pytest.mark.spec("S0-06", "S3-21")
async def test_serves_several_and_the_first_by_default(scripted: Scripted) -> None:
    async with started(scripted("one"), scripted("two", default={"reply": "second"})) as fleet:
        assert fleet.ready
        assert [status.name for status in fleet.statuses()] == ["one", "two"]
        assert fleet.resolve(None) == "one"
        assert await text(fleet, "two", ask("x")) == "second"
        with pytest.raises(ModelNotFoundError, match=r"did you mean 'two'.*one, two"):
            fleet.resolve("tow")


@pytest.mark.spec("S3-07", "S3-05")
async def test_more_requests_than_slots_wait_and_finish(scripted: Scripted) -> None:
    async with started(scripted(), slots=2) as fleet:
        answers = await asyncio.gather(*(text(fleet, "scripted", ask(str(i))) for i in range(8)))
    assert answers == [f"You said: {i}" for i in range(8)]


async def test_a_full_queue_refuses_at_once(scripted: Scripted) -> None:
    async with started(scripted(), slots=1, max_waiting=1) as fleet:
        held = [asyncio.create_task(text(fleet, "scripted", ask("long"))) for _ in range(2)]
        await asyncio.sleep(0.1)
        with pytest.raises(OverloadedError):
            await text(fleet, "scripted", ask("x"))
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert await text(fleet, "scripted", ask("x")) == "You said: x"


@pytest.mark.reliability("F-05")
async def test_a_killed_runner_is_restarted_and_others_go_on(scripted: Scripted) -> None:
    slow = scripted("one", tokens_per_second=20)  # By themselves its streams would take minutes.
    async with started(slow, scripted("two")) as fleet:
        streams = [asyncio.create_task(text(fleet, "one", ask("long"))) for _ in range(8)]
        queued = asyncio.create_task(text(fleet, "one", ask("queued")))
        other = asyncio.create_task(text(fleet, "two", ask("long", max_tokens=300)))
        await asyncio.sleep(0.2)
        kill(fleet, "one")
        results = await asyncio.wait_for(asyncio.gather(*streams, return_exceptions=True), 20)
        assert all(isinstance(result, EngineCrashedError) for result in results)
        assert not fleet.ready
        with pytest.raises(EngineUnavailableError) as refused:
            await text(fleet, "one", ask("x"))
        assert refused.value.retry_after
        # The one that had not begun is answered by the next process.
        assert await queued == "You said: queued"
        assert fleet.ready
        assert await other


@pytest.mark.reliability("F-05")
async def test_three_crashes_within_a_minute_are_the_end(scripted: Scripted) -> None:
    async with started(scripted()) as fleet:
        for crash in range(3):
            await until(lambda: state(fleet, "scripted") == "ready")
            kill(fleet, "scripted")
            await until(lambda: state(fleet, "scripted") != "ready")
            assert crash == 2 or state(fleet, "scripted") == "restarting"
        await until(lambda: state(fleet, "scripted") == "failed")
        assert "SIGKILL" in (fleet.status("scripted").reason or "")
        with pytest.raises(EngineUnavailableError, match="3 crashes"):
            await text(fleet, "scripted", ask("x"))


@pytest.mark.spec("S0-12")
async def test_a_model_that_cannot_load_leaves_the_others_serving(scripted: Scripted) -> None:
    bad = scripted("bad", load_fault={"kind": "out_of_memory"})
    fleet = Fleet([scripted("good"), bad])
    try:
        failures = await fleet.start()
        assert set(failures) == {"bad"}
        assert not fleet.ready
        assert state(fleet, "bad") == "failed"
        assert await text(fleet, "good", ask("x")) == "You said: x"
    finally:
        await fleet.close()


async def test_close_refuses_those_who_wait(scripted: Scripted) -> None:
    async with started(scripted(), slots=1) as fleet:
        tasks = [asyncio.create_task(text(fleet, "scripted", ask("long"))) for _ in range(3)]
        await asyncio.sleep(0.1)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(r, (EngineUnavailableError, EngineCrashedError)) for r in results)


@pytest.mark.reliability("F-05")
async def test_a_process_that_hangs_up_and_lives_on_is_replaced(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openllm.runner.client.CLOSE_GRACE", 0.3)
    async with started(scripted()) as fleet:
        before = fleet.pids()["scripted"]
        assert before is not None
        os.kill(before, signal.SIGSTOP)
        served = fleet._served["scripted"]
        served._runner._connection._transport.abort()  # type: ignore[union-attr]
        await until(lambda: state(fleet, "scripted") != "ready")
        await until(lambda: state(fleet, "scripted") == "ready")
        assert fleet.pids()["scripted"] != before
        assert await text(fleet, "scripted", ask("x")) == "You said: x"
