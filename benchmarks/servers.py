"""Starts the servers that are measured, each in processes of its own, and looks at those."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

OPENLLM = Path(sys.executable).parent / "openllm"
START_TIMEOUT = 60.0


class StartError(RuntimeError):
    """A server did not come up; the message holds the end of its log."""


@dataclass
class RunningServer:
    """A server that answers; `started` is the `time.perf_counter()` of its launch."""

    url: str
    process: psutil.Process
    started: float

    def tree(self) -> list[psutil.Process]:
        """All processes of the server."""
        return [self.process, *self.process.children(recursive=True)]

    def api_process(self) -> psutil.Process:
        """The process that listens on the server's port."""
        port = int(self.url.partition("//")[2].partition(":")[2].partition("/")[0])
        for process in self.tree():
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return process
        raise StartError(f"no process of the server listens on port {port}")

    def idle_cpu(self, seconds: float = 2.0) -> float:
        """CPU seconds that the whole server burns in a second of doing nothing."""
        before = sum(cpu_seconds(process) for process in self.tree())
        time.sleep(seconds)
        return (sum(cpu_seconds(process) for process in self.tree()) - before) / seconds


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time of one process, without its children."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def openllm_server(models: str, *options: str) -> Iterator[RunningServer]:
    """Run `openllm start` on a free port; yields when it is ready."""
    port = free_port()
    command = [str(OPENLLM), "start", models, "--port", str(port), *options]
    with _running(command) as (process, log, started):
        _wait(process, log, lambda: _ready(port))
        yield RunningServer(f"http://127.0.0.1:{port}/v1", process, started)


@contextmanager
def llama_server(model: Path, slots: int, context: int, threads: int) -> Iterator[RunningServer]:
    """Run llama-server's C++ front end; yields when it is ready."""
    module = "benchmarks.peers.llama_server"
    numbers = (str(slots), str(context), str(threads))
    command = [sys.executable, "-m", module, str(model), *numbers]
    with _running(command) as (process, log, started):
        _wait(process, log, lambda: "http://" in log.read_text())
        line = next(line for line in log.read_text().splitlines() if line.startswith("http://"))
        yield RunningServer(f"{line}/v1", process, started)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: Sequence[str]) -> Iterator[tuple[psutil.Process, Path, float]]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            started = time.perf_counter()
            process = _popen(command, output)
        try:
            yield psutil.Process(process.pid), log, started
        finally:
            _stop(process)


def _popen(command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPEN_LLM_")}
    root = Path(__file__).parent.parent
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=env, cwd=root
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    family = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(15)
    for child in family:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.kill()
    process.wait()


def _wait(process: psutil.Process, log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not ready():
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        if not alive or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:]
            raise StartError(f"the server did not start; its log ends with:\n{tail}")
        time.sleep(0.02)


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
