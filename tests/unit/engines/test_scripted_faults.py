"""Faults on demand: errors, pauses, stalls, and the death of the process at an exact token."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from openllm.engines.scripted_engine import ScriptedEngine
from openllm.errors import EngineError, EngineStartError, OutOfMemoryError
from openllm.types import CompletionChunk
from tests.unit.engines.scripting import request, run_jumping, say, scripted

SAY_ON_STDOUT = """
import asyncio, sys
from openllm.config.model import LoadOptions
from openllm.engines.scripted_engine import ScriptedEngine
from openllm.types import GenerateRequest, LocalModel, SamplingParams

async def main():
    model = LocalModel(name="test", path=sys.argv[1], format="script")
    engine = ScriptedEngine(model, LoadOptions())
    await engine.start()
    request = GenerateRequest(request_id="r", prompt="hi", params=SamplingParams())
    async for chunk in engine.generate(request):
        print(chunk.text, end="", flush=True)
    print("finished")

asyncio.run(main())
"""


def run_process(folder: Path, script: Any) -> subprocess.CompletedProcess[str]:
    path = folder / "test.script.json"
    path.write_text(json.dumps(script))
    return subprocess.run(
        [sys.executable, "-c", SAY_ON_STDOUT, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answering(fault: dict[str, Any]) -> dict[str, Any]:
    return {"default": {"reply": "x", "repeat": 5, "faults": [fault]}}


DEATHS = [("crash", -signal.SIGKILL), ("exit", 0), ("abort", -signal.SIGABRT)]


@pytest.mark.parametrize(("kind", "code"), DEATHS)
def test_the_process_dies_at_the_token(tmp_path: Path, kind: str, code: int) -> None:
    done = run_process(tmp_path, answering({"kind": kind, "after_tokens": 3}))
    assert (done.stdout, done.returncode) == ("xxx", code)


@pytest.mark.parametrize(("kind", "code"), DEATHS)
def test_the_process_dies_while_loading(tmp_path: Path, kind: str, code: int) -> None:
    done = run_process(tmp_path, {"load_fault": {"kind": kind}})
    assert (done.stdout, done.returncode) == ("", code)


async def read_into(chunks: list[CompletionChunk], engine: ScriptedEngine) -> None:
    async with aclosing(engine.generate(request("bad", n=2))) as stream:
        async for chunk in stream:
            chunks.append(chunk)


@pytest.mark.anyio
@pytest.mark.reliability("C-09")
@pytest.mark.parametrize(
    ("kind", "error"), [("error", EngineError), ("out_of_memory", OutOfMemoryError)]
)
async def test_a_failing_request_fails_alone_and_behind_its_chunks(
    kind: str, error: type[EngineError]
) -> None:
    fault = {"kind": kind, "after_tokens": 2, "message": "no more"}
    script = {
        "rules": [{"match": "bad", "tokens": ["a", "b", "c"], "faults": [fault]}],
        "default": {"reply": "y", "repeat": 9},
    }
    async with scripted(script) as engine:
        other = asyncio.create_task(say(engine, "good"))
        chunks: list[CompletionChunk] = []
        with pytest.raises(error, match="no more"):
            await read_into(chunks, engine)
        assert sorted((chunk.index, chunk.text) for chunk in chunks[:4]) == [
            (0, "a"), (0, "b"), (1, "a"), (1, "b"),
        ]  # fmt: skip
        assert all(chunk.finish_reason is None for chunk in chunks)
        assert await other == "y" * 9
        assert (engine.running, engine.waiting) == (0, 0)


def test_a_pause_holds_one_sequence() -> None:
    script = {
        "rules": [{"match": "slow", "reply": "x", "faults": [{"kind": "pause", "seconds": 7}]}],
        "default": {"reply": "y"},
    }

    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        async with scripted(script) as engine:

            async def one(prompt: str) -> tuple[str, float]:
                return await say(engine, prompt), round(loop.time(), 1)

            slow = asyncio.create_task(one("slow"))
            await asyncio.sleep(1)
            quick = await one("quick")
            assert await engine.health()
            return [quick, await slow]

    assert run_jumping(main()) == [("y", 1.0), ("x", 7.0)]


def test_a_stall_holds_the_engine_and_shows_in_its_health() -> None:
    fault = {"kind": "stall", "seconds": 30, "after_tokens": 1}
    script = {
        "unhealthy_after": 4,
        "rules": [{"match": "stall", "reply": "x", "repeat": 2, "faults": [fault]}],
        "default": {"reply": "y"},
    }

    async def main() -> tuple[list[bool], str, float]:
        loop = asyncio.get_running_loop()
        async with scripted(script) as engine:
            stalled = asyncio.create_task(say(engine, "stall"))
            await asyncio.sleep(1)
            other = asyncio.create_task(say(engine, "quick"))
            health = [await engine.health()]
            await asyncio.sleep(5)
            health.append(await engine.health())
            text = await stalled
            health.append(await engine.health())
            assert await other == "y"
            return health, text, round(loop.time())

    assert run_jumping(main()) == ([True, False, True], "xx", 30)


@pytest.mark.anyio
async def test_a_stall_without_seconds_lasts_and_can_be_closed() -> None:
    async with scripted(answering({"kind": "stall"})) as engine:
        task = asyncio.create_task(say(engine))
        done, _ = await asyncio.wait([task], timeout=0.2)
        assert not done
        await engine.close()
        with pytest.raises(EngineError):
            await task


@pytest.mark.parametrize(
    ("kind", "error"), [("error", EngineStartError), ("out_of_memory", OutOfMemoryError)]
)
def test_loading_takes_its_time_and_fails(kind: str, error: type[EngineStartError]) -> None:
    script = {"load_seconds": 3, "load_fault": {"kind": kind, "message": "needs 9 GiB"}}

    async def main() -> float:
        with pytest.raises(error, match="needs 9 GiB"):
            async with scripted(script):
                pass
        return asyncio.get_running_loop().time()

    assert run_jumping(main()) == pytest.approx(3)


@pytest.mark.anyio
async def test_a_failure_in_the_step_in_which_others_end_harms_nobody() -> None:
    script = {
        "rules": [
            {"match": "bad", "tokens": ["a"], "faults": [{"kind": "error", "after_tokens": 1}]}
        ],
        "default": {"tokens": ["y"]},
    }
    async with scripted(script) as engine:
        tasks = [asyncio.create_task(say(engine, prompt, n=3)) for prompt in ("bad", "good")]
        failed, answered = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(failed, EngineError)
        assert answered == "yyy"
        assert await say(engine, "good") == "y"
