"""Runners that die, hang or are given up while they load, and what is left of them: nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from openllm.config.model import ModelConfig
from openllm.errors import EngineStartError
from openllm.runner import wire
from openllm.runner.process import RunnerProcess
from openllm.types import LocalModel
from tests.e2e.conftest import spawned, unstarted
from tests.e2e.server_process import serving
from tests.processes import alive_after, runners
from tests.waiting import until

pytestmark = pytest.mark.anyio
Scripted = Callable[..., LocalModel]


@pytest.mark.reliability("F-05")
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("crash", r"was killed by signal 9 \(SIGKILL\)"),
        ("abort", r"was killed by signal 6 \(SIGABRT\)"),
        ("exit", "exited with status 0"),
    ],
)
async def test_a_death_while_loading_names_model_file_and_how(
    scripted: Scripted, kind: str, how: str
) -> None:
    model = scripted(load_fault={"kind": kind})
    said = rf"^the runner of model 'scripted' {how} while loading '{model.path}'; (it wrote|the la)"
    async with unstarted(model) as runner:
        with pytest.raises(EngineStartError, match=said):
            await runner.start()


ENGINE = """
import os

class Engine:
    def __init__(self, model, options): ...

    async def start(self):
        os.write(2, b"loading\\n\\x1b[31mno weights in there\\n\\n")
        os._exit(3)
"""


@pytest.mark.reliability("F-05")
async def test_what_it_wrote_before_its_end_is_told_and_shown(
    scripted: Scripted,
    added_engine: Callable[[str, str], ModelConfig],
    capfd: pytest.CaptureFixture[str],
) -> None:
    said = r"exited with status 3 while .* line that it wrote: \?\[31mno weights in there$"
    async with unstarted(scripted(), added_engine("exits", ENGINE)) as runner:
        with pytest.raises(EngineStartError, match=said):
            await runner.start()
    assert "loading\n\x1b[31mno weights in there\n" in capfd.readouterr().err


@pytest.mark.reliability("F-05", "S-23")
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.3, 1.0])
async def test_killed_at_any_instant_it_is_a_load_failure(scripted: Scripted, delay: float) -> None:
    async with unstarted(scripted(load_seconds=60)) as runner:
        starting = asyncio.create_task(runner.start())
        process = await spawned(runner)
        await asyncio.sleep(delay)
        process.kill()
        with pytest.raises(EngineStartError, match=r"SIGKILL.* while loading"):
            await asyncio.wait_for(starting, 60)
    assert not process.is_running()


@pytest.mark.reliability("F-06")
async def test_a_process_that_the_system_kills_for_memory_is_told_as_that(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statistics = tmp_path / "vmstat"
    statistics.write_text("pgfault 77\noom_kill 4\n")
    monkeypatch.setattr("openllm.runner.process._STATISTICS", statistics)
    async with unstarted(scripted(load_seconds=60)) as runner:
        starting = asyncio.create_task(runner.start())
        process = await spawned(runner)
        statistics.write_text("pgfault 78\noom_kill 5\n")
        process.kill()
        said = r"was killed by signal 9 \(SIGKILL; memory had run out\) while loading"
        with pytest.raises(EngineStartError, match=said):
            await asyncio.wait_for(starting, 60)


async def test_a_process_that_never_comes_to_its_loop_is_ended_in_time(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = RunnerProcess.start

    async def stuck(process: RunnerProcess) -> socket.socket:
        sock = await start(process)
        os.kill(process.pid, signal.SIGSTOP)  # As a native call that never gives Python back.
        return sock

    monkeypatch.setattr(RunnerProcess, "start", stuck)
    said = r"'scripted' was not loaded within 1 s, the load_timeout.* come to: starting the process"
    async with unstarted(scripted()) as runner:
        with pytest.raises(EngineStartError, match=said) as caught:
            await asyncio.wait_for(runner.start(1.0), 60)
        assert caught.value.param == "load_timeout"
        assert not psutil.pid_exists(runner.pid)


def test_a_model_that_hangs_fails_in_time_and_the_others_serve(scripted: Scripted) -> None:
    good, hung = scripted(), scripted("hung", load_fault={"kind": "stall"})
    models = (f"good={good.path}", f"hung={hung.path}")
    with serving(*models, "--load-timeout", "15") as server:
        said = [
            server.post("/v1/completions", {"model": name, "prompt": "x"}).json()
            for name in ("good", "hung")
        ]
        assert said[0]["choices"][0]["text"] == "You said: x"
        assert "within 15 s, the load_timeout" in said[1]["error"]["message"]
        assert "it had come to: hung runs on scripted" in said[1]["error"]["message"]
        assert len(runners(server.process.pid)) == 1


PARENT = """
import asyncio, sys
from openllm.runner.client import Runner
from openllm.types import LocalModel

async def main():
    runner = Runner(LocalModel(name="x", path=sys.argv[1], format="script"))
    asyncio.create_task(runner.start())
    while True:
        try:
            print(runner.pid, flush=True)
            break
        except RuntimeError:
            await asyncio.sleep(0.001)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.reliability("F-12")
@pytest.mark.parametrize("delay", [0.0, 0.5, 2.0])
def test_it_ends_with_a_parent_that_is_killed_while_it_loads(
    scripted: Scripted, delay: float
) -> None:
    model = scripted(load_seconds=60)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, model.path], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(delay)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        # One that is still importing learns of it when it reads what to load.
        assert alive_after([child], 20.0) == []


async def test_starting_and_closing_leaves_nothing_behind(scripted: Scripted) -> None:
    def held() -> tuple[int, int, int]:
        process = psutil.Process()
        threads = [each for each in threading.enumerate() if each.name == "runner-stderr"]
        return process.num_fds(), len(threads), len(process.children())

    def gone() -> bool:
        return all(now <= then for now, then in zip(held()[1:], before[1:], strict=True))

    model, broken = scripted(), scripted("broken", load_fault={"kind": "error"})
    before, counts = held(), list[int]()
    for _ in range(4):
        async with unstarted(model) as runner:
            await runner.start()
        async with unstarted(broken) as runner:
            with pytest.raises(EngineStartError):
                await runner.start()
        async with unstarted(model) as runner:
            starting = asyncio.create_task(runner.start())
            (await spawned(runner)).kill()
            await asyncio.gather(starting, return_exceptions=True)
        await until(gone)
        counts.append(held()[0])
    # The first brings what the event loop keeps; what other tests left may go meanwhile.
    await until(lambda: held()[0] <= counts[1])


FRAMES = {
    "huge": (wire.MAX_FRAME + 1).to_bytes(4, "big"),
    "no msgpack": b"\0\0\0\1\xc1",
    "no message": b"\0\0\0\1\x80",
    "of the wrong side": wire.encode(wire.Health(1)),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
async def test_a_frame_that_cannot_be_read_ends_the_runner(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, frame: bytes
) -> None:
    ours, theirs = socket.socketpair()

    async def start(_: RunnerProcess) -> socket.socket:
        return ours

    monkeypatch.setattr(RunnerProcess, "start", start)
    async with unstarted(scripted()) as runner:
        with theirs:
            theirs.sendall(frame)
            with pytest.raises(EngineStartError, match="while loading"):
                await asyncio.wait_for(runner.start(), 60)
            assert theirs.recv(1) == b""
        assert await runner.died
