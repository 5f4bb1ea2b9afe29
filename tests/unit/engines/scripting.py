"""Scripted engines for tests: written, started, asked, and run by a clock that jumps."""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from openllm.config.model import LoadOptions
from openllm.engines.scripted_engine import ScriptedEngine
from openllm.types import CompletionChunk, GenerateRequest, LocalModel, Prompt, SamplingParams

T = TypeVar("T")


def write_script(folder: Path, script: Any) -> LocalModel:
    path = folder / "test.script.json"
    path.write_text(script if isinstance(script, str) else json.dumps(script))
    return LocalModel(name="test", path=str(path), format="script")


@asynccontextmanager
async def scripted(script: Any, **options: Any) -> AsyncIterator[ScriptedEngine]:
    """Start an engine on a script; close it at the end."""
    with TemporaryDirectory() as folder:
        engine = ScriptedEngine(write_script(Path(folder), script), LoadOptions(**options))
        try:
            await engine.start()
            yield engine
        finally:
            await engine.close()


def request(prompt: Prompt = "hi", **params: Any) -> GenerateRequest:
    return GenerateRequest(request_id="r", prompt=prompt, params=SamplingParams(**params))


async def collect(
    engine: ScriptedEngine, prompt: Prompt = "hi", **params: Any
) -> list[CompletionChunk]:
    async with aclosing(engine.generate(request(prompt, **params))) as chunks:
        return [chunk async for chunk in chunks]


async def say(engine: ScriptedEngine, prompt: Prompt = "hi", **params: Any) -> str:
    return "".join(chunk.text for chunk in await collect(engine, prompt, **params))


class _JumpingSelector(selectors.DefaultSelector):
    """Never sleeps: time jumps to what the loop would have waited for."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("the test waits for something that cannot come")
        self.now += timeout
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run_jumping(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop whose time jumps, so that timing is exact and costs none."""
    loop = JumpingLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
