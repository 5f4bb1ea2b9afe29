"""Native calls, played by a fake: what they say arrives once, in order, and ends truly."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from openllm.engines.llamacpp_runs import Generation, Runs
from openllm.engines.llamacpp_stream import Answer
from openllm.errors import EngineError, InvalidRequestError
from openllm.types import CompletionChunk, SamplingParams
from tests.unit.engines.test_llamacpp_stream import end, words
from tests.waiting import until

pytestmark = pytest.mark.anyio

Script = Callable[[Callable[[bytes], bool]], None]


class FakeServer:
    """Plays one script for every completion."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def handle_completions(self, _body: bytes, callback: Callable[[bytes], bool]) -> None:
        self._script(callback)


@asynccontextmanager
async def playing(script: Script, size: int = 2) -> AsyncIterator[Runs]:
    runs = Runs(FakeServer(script), size)
    try:
        yield runs
    finally:
        await runs.close(1.0)


def translate(answer: Answer) -> InvalidRequestError:
    return InvalidRequestError("" if answer.error is None else answer.error.message)


async def start(runs: Runs) -> Generation:
    return await runs.start(b"", SamplingParams(), translate)


async def read(generation: Generation) -> list[CompletionChunk]:
    chunks: list[CompletionChunk] = []
    while (chunk := await generation.next()) is not None:
        chunks.append(chunk)
    return chunks


def saying(*events: bytes) -> Script:
    def script(callback: Callable[[bytes], bool]) -> None:
        for event in events:
            if callback(event):
                return

    return script


async def test_events_arrive_in_order_and_the_turn_is_given_back() -> None:
    async with playing(saying(*words("a", "b", "c"), end("length", 3))) as runs:
        generations = [await start(runs) for _ in range(2)]
        answers = await asyncio.gather(*map(read, generations))
        assert [[c.text for c in chunks] for chunks in answers] == [["a", "b", "c", ""]] * 2
        await until(lambda: runs.active == 0)


@pytest.mark.reliability("C-09", "F-05")
@pytest.mark.parametrize(
    "events",
    [
        (),
        tuple(words("a")),
        (*words("a"), end("tool_calls", 1)),
        (*words("a"), b'{"choices":[{"text":"x","index":9,"finish_reason":"stop"}],"usage":{}}'),
        (b"not json",),
    ],
    ids=["nothing", "no end", "unknown end", "unknown sequence", "no json"],
)
async def test_a_call_that_ends_without_a_true_end_is_an_error(events: tuple[bytes, ...]) -> None:
    async with playing(saying(*events)) as runs:
        generation = await start(runs)
        with pytest.raises(EngineError) as caught:
            await read(generation)
        assert not isinstance(caught.value, InvalidRequestError)


async def test_a_call_that_raises_is_an_error() -> None:
    def script(callback: Callable[[bytes], bool]) -> None:
        raise RuntimeError("broken")

    async with playing(script) as runs:
        with pytest.raises(EngineError, match="broken"):
            await read(await start(runs))


async def test_an_error_event_is_translated() -> None:
    async with playing(saying(b'{"error":{"message":"too much"}}')) as runs:
        with pytest.raises(InvalidRequestError, match="too much"):
            await read(await start(runs))


@pytest.mark.reliability("F-01")
async def test_a_cancelled_generation_stops_at_its_next_event() -> None:
    said: list[int] = []

    def script(callback: Callable[[bytes], bool]) -> None:
        for at in range(10_000):
            said.append(at)
            if callback(words("a")[0]):
                return
            threading.Event().wait(0.001)

    async with playing(script) as runs:
        generation = await start(runs)
        await generation.next()
        generation.cancelled = True
        at = len(said)
        await until(lambda: runs.active == 0)
        assert len(said) <= at + 2


async def test_all_that_has_arrived_wakes_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    woken: list[Any] = []
    call = loop.call_soon_threadsafe

    def count(function: Callable[..., object], *args: Any) -> Any:
        woken.append(function)
        return call(function, *args)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    said = threading.Event()

    def script(callback: Callable[[bytes], bool]) -> None:
        saying(*words(*"x" * 50))(callback)
        said.set()

    async with playing(script) as runs:
        task = asyncio.create_task(start(runs))
        await asyncio.sleep(0)
        said.wait(2.0)  # The loop stands still here, as it does while it works.
        drains = [each for each in woken if getattr(each, "__name__", "") == "_drain"]
        assert len(drains) <= 2
        assert len(await read_some(await task)) == 50


async def read_some(generation: Generation) -> list[CompletionChunk]:
    """Read until the error that ends it."""
    found: list[CompletionChunk] = []
    with suppress(EngineError):
        while (chunk := await generation.next()) is not None:
            found.append(chunk)
    return found
