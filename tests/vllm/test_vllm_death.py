"""Whoever dies, the others learn of it: vLLM's process, or ours."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from asyncio import Task
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from openllm.config.model import LoadOptions, ModelConfig
from openllm.errors import EngineCrashedError, EngineStartError, EngineUnavailableError
from openllm.runner.client import Runner
from openllm.types import CompletionChunk, LocalModel
from tests.processes import alive_after
from tests.vllm.serving import FOLDER, ask, engine_processes, request, started
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

# No `if __name__ == "__main__"`: a process that imports it would print the first line again.
PROGRAM = """
print("main", flush=True)
import asyncio
from openllm.config.model import LoadOptions
from openllm.engines.vllm_engine import VLLMEngine
from openllm.types import LocalModel

async def main():
    options = LoadOptions(context_length=256, max_concurrency=2, enforce_eager=True, threads=1)
    engine = VLLMEngine(LocalModel(name="m", path={path!r}, format="safetensors"), options)
    await engine.start()
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def read(stream: AsyncGenerator[CompletionChunk, None]) -> None:
    async for _ in stream:
        pass


@pytest.mark.reliability("F-05")
async def test_requests_learn_of_the_engines_death_at_once() -> None:
    async with started(context_length=1024) as engine:  # Long enough not to end meanwhile.
        (process,) = engine_processes()
        streams = [engine.generate(request("The", ignore_eos=True)) for _ in range(3)]
        await asyncio.gather(*map(anext, streams))
        process.kill()
        rest = asyncio.gather(*map(read, streams), return_exceptions=True)
        found = await asyncio.wait_for(rest, 60)
        assert [type(error) for error in found] == [EngineCrashedError] * 3
        assert not await engine.health()
        with pytest.raises(EngineCrashedError):
            await ask(engine, "The", max_tokens=1)


async def test_closing_ends_open_requests_and_leaves_no_process() -> None:
    async with started(context_length=1024) as engine:
        stream = engine.generate(request("The", ignore_eos=True))
        await anext(stream)
        await asyncio.wait_for(engine.close(), 60)
        with pytest.raises(EngineUnavailableError, match="was stopped"):
            await read(stream)
        assert engine_processes() == []
        assert not await engine.health()
        await engine.close()
        with pytest.raises(EngineUnavailableError):
            await ask(engine, "The", max_tokens=1)


@asynccontextmanager
async def loading(limit: float | None = None) -> AsyncIterator[tuple[Task[None], psutil.Process]]:
    """Load a model in a runner; gives that, and the process in which vLLM will compute."""
    options = {"backend": "vllm", "max_concurrency": 2, "enforce_eager": True, "threads": 1}
    config = ModelConfig(load=LoadOptions(context_length=256, **options))
    runner = Runner(LocalModel(name="m", path=str(FOLDER), format="safetensors"), config)
    starting = asyncio.create_task(runner.start(limit))
    found: list[psutil.Process] = []

    def appeared() -> bool:
        with contextlib.suppress(RuntimeError):  # The runner has no process yet.
            found[:] = engine_processes(runner.pid)
        return bool(found)

    try:
        await until(appeared, 180)
        yield starting, found[0]
    finally:
        await runner.close()
        await asyncio.gather(starting, return_exceptions=True)


@pytest.mark.reliability("F-05")
async def test_a_death_of_vllms_process_while_loading_is_a_load_failure() -> None:
    async with loading() as (starting, process):
        process.kill()
        with pytest.raises(EngineStartError, match=r"vLLM cannot load '.*': .*Engine core init"):
            await asyncio.wait_for(starting, 180)


async def test_a_hang_of_vllms_process_while_loading_ends_in_time() -> None:
    said = r"45 s, the load_timeout.* to: starting vLLM's own"
    async with loading(45.0) as (starting, process):
        process.suspend()
        with pytest.raises(EngineStartError, match=said):
            await asyncio.wait_for(starting, 180)
        assert alive_after([process]) == []


@pytest.fixture
def program(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that loads a model and then waits."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.format(path=str(FOLDER)))
    process = subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with process:
        yield process
        process.kill()


@pytest.mark.reliability("F-12")
async def test_vllm_dies_with_the_program_that_loaded_it(program: subprocess.Popen[str]) -> None:
    assert program.stdout is not None
    assert [program.stdout.readline() for _ in range(2)] == ["main\n", "ready\n"]
    (engine,) = engine_processes(program.pid)
    program.send_signal(signal.SIGKILL)
    assert alive_after([engine]) == []


@pytest.mark.reliability("F-12")
async def test_vllm_dies_with_a_program_that_is_still_loading(
    program: subprocess.Popen[str],
) -> None:
    found: list[psutil.Process] = []
    await until(lambda: found.extend(engine_processes(program.pid)) or found, 180)
    await asyncio.sleep(1.0)
    program.send_signal(signal.SIGKILL)
    assert alive_after(found) == []
