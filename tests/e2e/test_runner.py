"""A runner in a real child process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import psutil
import pytest

from openllm import engines
from openllm.config.model import LoadOptions, ModelConfig
from openllm.errors import ConfigurationError, EngineCrashedError, EngineError, EngineStartError
from openllm.models.locate import find_local
from openllm.models.ref import parse_ref
from openllm.runner.client import Runner
from openllm.runner.process import RunnerProcess
from openllm.types import CompletionChunk, GenerateRequest, LocalModel
from tests.e2e.conftest import ask, spawned, unstarted
from tests.processes import alive_after
from tests.waiting import until

pytestmark = pytest.mark.anyio
Scripted = Callable[..., LocalModel]


@asynccontextmanager
async def started(model: LocalModel) -> AsyncIterator[Runner]:
    async with unstarted(model) as runner:
        await runner.start()
        yield runner


async def collect(
    runner: Runner, request: GenerateRequest, into: list[CompletionChunk] | None = None
) -> list[CompletionChunk]:
    collected: list[CompletionChunk] = [] if into is None else into
    async with aclosing(runner.generate(request)) as chunks:
        async for chunk in chunks:
            collected.append(chunk)
    return collected


@pytest.mark.spec("S0-11")
async def test_generates_in_a_process_of_its_own(scripted: Scripted) -> None:
    async with started(scripted()) as runner:
        assert runner.pid != os.getpid()
        chunks = await collect(runner, ask("hello"))
        assert "".join(chunk.text for chunk in chunks) == "You said: hello"
        assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert not psutil.pid_exists(runner.pid)


async def test_answers_calls_beside_streams(scripted: Scripted) -> None:
    async with started(scripted()) as runner:
        stream = asyncio.create_task(collect(runner, ask("long", max_tokens=50)))
        ids = await runner.tokenize("some words", special=False)
        assert await runner.detokenize(ids) == "some words"
        assert len((await runner.embed(["a", "b"])).vectors) == 2
        assert await runner.health()
        assert len(await stream) >= 50


async def test_an_engine_that_the_process_cannot_import_is_one_line(
    scripted: Scripted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "engine_of_the_parent.py").write_text("class Loud: ...")
    monkeypatch.syspath_prepend(tmp_path)  # Which the runner's process does not get.
    monkeypatch.setattr(engines, "ENGINES", dict(engines.ENGINES))
    engines.add_engine("loud", "engine_of_the_parent:Loud", ["script"])
    config = ModelConfig(load=LoadOptions(backend="loud"))
    async with unstarted(scripted(), config) as runner:
        with pytest.raises(ConfigurationError, match="has no module 'engine_of_the_parent'"):
            await runner.start()
    assert "Traceback" not in capfd.readouterr().err


async def test_many_streams_do_not_mix(scripted: Scripted) -> None:
    async with started(scripted()) as runner:
        answers = await asyncio.gather(*(collect(runner, ask(f"number {i}")) for i in range(30)))
    texts = ["".join(chunk.text for chunk in chunks) for chunks in answers]
    assert texts == [f"You said: number {i}" for i in range(30)]


@pytest.mark.reliability("F-01", "C-22")
async def test_closing_a_stream_frees_its_slot_at_once(scripted: Scripted) -> None:
    async with started(scripted(tokens_per_second=20)) as runner:
        async with aclosing(runner.generate(ask("long"))) as chunks:
            async for _ in chunks:
                break
        slots = [collect(runner, ask("hello")) for _ in range(runner.capabilities.max_concurrency)]
        # All slots are free again: 3,000 words would have held one for minutes.
        await asyncio.wait_for(asyncio.gather(*slots), 60)


@pytest.mark.reliability("F-02")
async def test_a_stream_that_nobody_reads_holds_up_no_other(scripted: Scripted) -> None:
    async with started(scripted(tokens_per_second=0)) as runner:
        async with aclosing(runner.generate(ask("long"))) as unread:
            await anext(unread)
            for number in range(20):
                chunks = await collect(runner, ask(str(number)))
                assert "".join(chunk.text for chunk in chunks) == f"You said: {number}"
            rest = [chunk async for chunk in unread]
        assert sum(len(chunk.token_ids) for chunk in rest) > 2000
        assert rest[-1].finish_reason == "length"


@pytest.mark.reliability("F-05")
async def test_a_crash_ends_every_stream_without_a_finish_reason(scripted: Scripted) -> None:
    async with started(scripted(tokens_per_second=20)) as runner:
        begun: list[list[CompletionChunk]] = [[] for _ in range(4)]
        others = [asyncio.create_task(collect(runner, ask("long"), each)) for each in begun]
        await until(lambda: all(begun))
        seen: list[CompletionChunk] = []
        with pytest.raises(EngineCrashedError):
            await collect(runner, ask("die"), seen)
        # By themselves they would take minutes.
        results = await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 20)
        assert all(isinstance(result, EngineCrashedError) for result in results)
        assert not any(chunk.finish_reason for chunk in seen)
        assert "SIGKILL" in await runner.died
        with pytest.raises(EngineCrashedError):
            await runner.health()


async def test_an_engine_error_fails_one_request_only(scripted: Scripted) -> None:
    async with started(scripted()) as runner:
        with pytest.raises(EngineError, match="broken"):
            await collect(runner, ask("fail"))
        assert await collect(runner, ask("hello"))


async def test_a_load_failure_says_why(scripted: Scripted) -> None:
    model = scripted(load_fault={"kind": "error", "message": "no weights"})
    async with unstarted(model) as runner:
        with pytest.raises(EngineStartError, match="no weights"):
            await runner.start()


@pytest.mark.spec("S0-12")
async def test_a_crash_while_loading_is_a_load_failure(scripted: Scripted) -> None:
    async with unstarted(scripted(load_fault={"kind": "crash"})) as runner:
        with pytest.raises(EngineStartError, match=r"'scripted'.*while loading"):
            await runner.start()


def permissions(path: str) -> int | None:
    return os.stat(path).st_mode & 0o777 if os.path.exists(path) else None


async def test_nobody_else_can_connect_and_its_folder_goes_with_it(scripted: Scripted) -> None:
    async with started(scripted()) as runner:
        process = psutil.Process(runner.pid)
        folder = process.environ()["TMPDIR"]
        assert permissions(folder) == 0o700
        sockets = process.net_connections("all")
        assert [(each.laddr, each.raddr) for each in sockets if each.laddr or each.raddr] == []
    assert permissions(folder) is None


async def test_a_process_that_cannot_be_started_is_a_load_failure(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(RunnerProcess, "start", refuse)
    async with unstarted(scripted()) as runner:
        with pytest.raises(EngineStartError, match="no more processes"):
            await runner.start()


async def test_closing_while_loading_does_not_wait(scripted: Scripted) -> None:
    async with unstarted(scripted(load_seconds=600)) as runner:
        starting = asyncio.create_task(runner.start())
        await spawned(runner)
        await asyncio.wait_for(runner.close(), 60)
        with pytest.raises(EngineStartError):
            await starting


async def test_an_answer_to_a_call_that_was_given_up_harms_nothing(
    scripted: Scripted, capfd: pytest.CaptureFixture[str]
) -> None:
    async with started(scripted()) as runner:
        for token_ids in ([1, 2], [10**9]):  # The second one is refused.
            call = asyncio.create_task(runner.detokenize(token_ids))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        assert await runner.health()
    told = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("INFO ")]
    assert told == []


ENGINE = """
import asyncio
from openllm.engines.scripted_engine import ScriptedEngine
from openllm.types import CompletionChunk

class Engine(ScriptedEngine):
    async def generate(self, request):
        yield CompletionChunk(0, "a", (1,))
        raise asyncio.CancelledError

    async def embed(self, inputs):
        raise asyncio.CancelledError
"""


async def test_what_an_engine_cancels_by_itself_is_an_error_and_not_for_ever(
    scripted: Scripted, added_engine: Callable[[str, str], ModelConfig]
) -> None:
    async with unstarted(scripted(), added_engine("cancels", ENGINE)) as runner:
        await runner.start()
        for ask_for in (lambda: collect(runner, ask("hello")), lambda: runner.embed(["a"])):
            with pytest.raises(EngineError, match="CancelledError"):
                await asyncio.wait_for(ask_for(), 60)
        assert await runner.health()


@pytest.mark.reliability("F-01")
async def test_a_cancelled_embedding_stops_the_work() -> None:
    demo = find_local(parse_ref("demo"))
    assert demo is not None
    async with started(demo) as runner:
        texts = ["many words about nothing in particular " * 20] * 3000
        call = asyncio.create_task(runner.embed(texts))
        await asyncio.sleep(0.3)
        assert not call.done()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        for _ in range(20):  # All of the work would take far longer.
            if await cpu_seconds(runner.pid, within=0.5) < 0.2:
                return
        raise AssertionError("it goes on")


async def cpu_seconds(pid: int | None, within: float) -> float:
    """Measure how long a process computes in the next seconds."""
    before = sum(psutil.Process(pid).cpu_times()[:2])
    await asyncio.sleep(within)
    return float(sum(psutil.Process(pid).cpu_times()[:2]) - before)


PARENT = """
import asyncio, sys
from openllm.runner.client import Runner
from openllm.types import LocalModel

async def main():
    runner = Runner(LocalModel(name="x", path=sys.argv[1], format="script"))
    await runner.start()
    print(runner.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.reliability("F-12")
def test_the_child_dies_with_a_killed_parent(scripted: Scripted, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, scripted().path], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert alive_after([child]) == []


@pytest.mark.reliability("S-29")
async def test_secrets_are_not_in_its_environment(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("HF_TOKEN", "OPEN_LLM_API_KEY", "OPEN_LLM_HUB_TOKEN", "OPEN_LLM_DOWNLOAD_HEADER")
    for name in names:
        monkeypatch.setenv(name, "canary-51")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    async with started(scripted()) as runner:
        variables = psutil.Process(runner.pid).environ()
    assert "canary-51" not in variables.values()
    assert variables["OMP_WAIT_POLICY"] == "passive"
