"""Starts the servers that are measured, each in processes of its own, and looks at those."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).parent.parent
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
def openllm_server(
    models: str, *options: str, env: Mapping[str, str] | None = None, timeout: float = START_TIMEOUT
) -> Iterator[RunningServer]:
    """Run `openllm start` on a free port; yields when it is ready."""
    port = free_port()
    command = [str(OPENLLM), "start", models, "--port", str(port), *options]
    with http_server(command, port, "/readyz", env, timeout) as server:
        yield server


@contextmanager
def http_server(
    command: Sequence[str],
    port: int,
    ready: str,
    env: Mapping[str, str] | None = None,
    timeout: float = START_TIMEOUT,
) -> Iterator[RunningServer]:
    """Run a server on `port`; yields when it answers `ready` with status 200."""
    with _running(command, env) as (process, log, started):
        _wait(process, log, lambda: _ready(port, ready), timeout)
        yield RunningServer(f"http://127.0.0.1:{port}/v1", process, started)


@contextmanager
def llama_server(model: Path, slots: int, context: int, threads: int) -> Iterator[RunningServer]:
    """Run llama-server's C++ front end; yields when it is ready."""
    module = "benchmarks.peers.llama_server"
    numbers = (str(slots), str(context), str(threads))
    with printing_server([sys.executable, "-m", module, str(model), *numbers]) as server:
        yield server


@contextmanager
def printing_server(
    command: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = START_TIMEOUT
) -> Iterator[RunningServer]:
    """Run a server that prints its address on a line of its own when it is ready."""
    with _running(command, env) as (process, log, started):
        _wait(process, log, lambda: bool(_addresses(log)), timeout)
        yield RunningServer(f"{_addresses(log)[0]}/v1", process, started)


def _addresses(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return [line for line in lines if line.startswith("http://")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(
    command: Sequence[str], env: Mapping[str, str] | None = None
) -> Iterator[tuple[psutil.Process, Path, float]]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            started = time.perf_counter()
            process = _popen(command, output, env or {})
        try:
            yield psutil.Process(process.pid), log, started
        finally:
            _stop(process)


def _popen(
    command: Sequence[str], output: IO[bytes], extra: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPEN_LLM_")}
    env.update(extra)
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=env, cwd=ROOT
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


def _wait(
    process: psutil.Process,
    log: Path,
    ready: Callable[[], bool],
    timeout: float = START_TIMEOUT,
) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        if not alive or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:]
            raise StartError(f"the server did not start; its log ends with:\n{tail}")
        time.sleep(0.02)


def _ready(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
