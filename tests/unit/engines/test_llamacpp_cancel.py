"""Closing a stream frees its slot, whenever it happens."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from contextlib import aclosing

import pytest

from openllm.engines.llamacpp_engine import LlamaCppEngine
from openllm.errors import EngineUnavailableError
from openllm.types import LocalModel
from tests.unit.engines.llamas import greedy, request, say_all, started
from tests.waiting import until

pytestmark = pytest.mark.anyio

ENDLESS = {"ignore_eos": True, "temperature": 0.0}


def threads() -> int:
    return sum(thread.name.startswith("llama") for thread in threading.enumerate())


@pytest.mark.spec("S3-35")
@pytest.mark.reliability("C-22", "F-01")
async def test_a_thousand_aborts_lose_nothing(llama: LlamaCppEngine) -> None:
    others = threads()
    expected = await greedy(llama, "Hello", 24)
    rng = random.Random(3)

    async def abort(at: int) -> None:
        prompt = f"{at} " * rng.choice((1, 20, 200))
        task = asyncio.create_task(
            say_all(llama, prompt, n=rng.choice((1, 1, 2, 4)), max_tokens=200, **ENDLESS)
        )
        await asyncio.sleep(rng.choice((0, 0, 0.001, 0.005, 0.02)))
        task.cancel()
        await asyncio.wait([task])

    for start in range(0, 1000, 20):
        await asyncio.gather(*(abort(start + at) for at in range(20)))
    await until(lambda: llama.active == 0)
    assert threads() - others <= 4
    answers = await asyncio.gather(*(greedy(llama, "Hello", 24) for _ in range(8)))
    assert [each.ids for each in answers] == [expected.ids] * 8


@pytest.mark.spec("S3-35")
@pytest.mark.reliability("F-01")
async def test_closing_a_stream_stops_its_work(llama: LlamaCppEngine) -> None:
    async with aclosing(llama.generate(request(**ENDLESS))) as chunks:
        await anext(chunks)
        assert llama.active == 1
        before = time.monotonic()
    assert time.monotonic() - before < 10  # 0.2 s on a machine that is not loaded.
    await until(lambda: llama.active == 0)


@pytest.mark.spec("S3-07", "S3-35")
async def test_requests_wait_in_order_and_a_waiting_one_can_go(tiny_llama: LocalModel) -> None:
    # So much context that no request comes to its end meanwhile.
    async with started(tiny_llama, context_length=2048) as llama:
        running = [llama.generate(request(**ENDLESS)) for _ in range(4)]
        for each in running:
            await anext(each)
        order: list[int] = []

        async def wait(name: int) -> None:
            await greedy(llama, "Hello", 2)
            order.append(name)

        waiting = [asyncio.create_task(wait(name)) for name in range(3)]
        await until(lambda: llama.active == 7)
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        assert waiting[0].cancelled()
        assert llama.active == 6
        await running[0].aclose()
        await asyncio.gather(*waiting[1:])
        assert order == [1, 2]
        for each in running[1:]:
            await each.aclose()


@pytest.mark.reliability("F-01", "F-02")
async def test_a_prompt_is_not_read_to_its_end_after_an_abort(tiny_llama: LocalModel) -> None:
    async with started(tiny_llama, context_length=2048, max_concurrency=1) as llama:
        events: list[bytes] = []
        task = asyncio.create_task(greedy(llama, tuple([40, 41] * 1000), 4))
        runs = llama._started.runs  # type: ignore[union-attr]
        await until(lambda: bool(runs._generations))
        (generation,) = runs._generations
        take = generation._answer.take

        def spy(data: bytes) -> object:
            events.append(data)
            task.cancel()
            return take(data)

        generation._answer = type("Spied", (), {"take": staticmethod(spy), "ended": False,
                                                "error": None, "empty": False})()  # fmt: skip
        await asyncio.wait([task])
        await until(lambda: llama.active == 0)
        assert b"prompt_progress" in events[0]
        cached = (await greedy(llama, tuple([40, 41] * 1000), 1)).usage
        assert cached is not None
        assert cached.cached_tokens < 1999


@pytest.mark.reliability("F-11")
async def test_closing_the_engine_ends_every_request_with_an_error(
    tiny_llama: LocalModel,
) -> None:
    others = threads()
    async with started(tiny_llama) as llama:
        tasks = [asyncio.create_task(say_all(llama, **ENDLESS)) for _ in range(7)]
        await until(lambda: llama.active == 7)
        before = time.monotonic()
        await llama.close()
        assert time.monotonic() - before < 10
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        assert all(isinstance(error, EngineUnavailableError) for error in ended)
        with pytest.raises(EngineUnavailableError):
            await greedy(llama)
        await until(lambda: threads() <= others)
