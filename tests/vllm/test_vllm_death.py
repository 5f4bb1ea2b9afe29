"""Whoever dies, the others learn of it: vLLM's process, or ours."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from openllm.errors import EngineCrashedError, EngineUnavailableError
from tests.processes import alive_after
from tests.vllm.serving import FOLDER, ask, engine_processes, started, vllm

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


@pytest.mark.reliability("F-05")
async def test_requests_learn_of_the_engines_death_at_once() -> None:
    async with started() as engine:
        tasks = [
            asyncio.create_task(ask(engine, "The", ignore_eos=True, max_tokens=500, n=1))
            for _ in range(3)
        ]
        await asyncio.sleep(0.5)
        (process,) = engine_processes()
        process.kill()
        begun = time.monotonic()
        found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 2.0)
        assert time.monotonic() - begun < 2.0
        assert [type(error) for error in found] == [EngineCrashedError] * 3
        assert not await engine.health()
        with pytest.raises(EngineCrashedError):
            await ask(engine, "The", max_tokens=1)


async def test_closing_ends_open_requests_and_leaves_no_process() -> None:
    engine = vllm()
    await engine.start()
    task = asyncio.create_task(ask(engine, "The", ignore_eos=True))
    await asyncio.sleep(0.2)
    begun = time.monotonic()
    await engine.close()
    assert time.monotonic() - begun < 5.0
    with pytest.raises(EngineUnavailableError, match="was stopped"):
        await task
    assert engine_processes() == []
    assert not await engine.health()
    await engine.close()
    with pytest.raises(EngineUnavailableError):
        await ask(engine, "The", max_tokens=1)


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
    assert alive_after([engine], 2.0) == []


@pytest.mark.reliability("F-12")
async def test_vllm_dies_with_a_program_that_is_still_loading(
    program: subprocess.Popen[str],
) -> None:
    until = time.monotonic() + 60
    while not (found := engine_processes(program.pid)):
        assert time.monotonic() < until
        await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)
    program.send_signal(signal.SIGKILL)
    assert alive_after(found, 2.0) == []
