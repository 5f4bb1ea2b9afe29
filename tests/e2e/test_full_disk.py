"""Logs on a full disk: the server goes on, and as fast as before."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx2
import pytest

from openllm.types import LocalModel
from tests.e2e.server_process import COMMAND, ServerProcess, serving

Scripted = Callable[..., LocalModel]
pytestmark = pytest.mark.reliability("F-07")


@pytest.fixture(autouse=True)
def buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what cannot be written left over at the end of the process."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@contextmanager
def writing_to(path: str) -> Iterator[int]:
    file = os.open(path, os.O_WRONLY)
    try:
        yield file
    finally:
        os.close(file)


def latency(server: ServerProcess, requests: int) -> list[float]:
    """Return the seconds that each of some requests took."""
    taken = []
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        for number in range(requests):
            begun = time.perf_counter()
            answer = client.post("/chat", json={"prompt": str(number)})
            taken.append(time.perf_counter() - begun)
            assert answer.json()["message"] == f"You said: {number}"
    return taken


def test_logs_that_cannot_be_written_change_nothing(scripted: Scripted) -> None:
    taken: dict[str, list[float]] = {"/dev/null": [], "/dev/full": []}
    with ExitStack() as stack:
        servers = {}
        for path in taken:
            log = stack.enter_context(writing_to(path))
            flags = (scripted().path, "--access-log", "--log-level", "debug")
            servers[path] = stack.enter_context(serving(*flags, stderr=log))
        for _ in range(30):  # By turns, so that both meet what else the machine does.
            for path, server in servers.items():
                taken[path] += latency(server, 5)
        lines = servers["/dev/full"].get("/v1/chat/completions")
        assert lines.status_code == 405
    assert [server.process.returncode for server in servers.values()] == [0, 0]
    full, null = sorted(taken["/dev/full"]), sorted(taken["/dev/null"])
    assert full[75] < 1.5 * null[75] + 0.005
    assert full[148] < 2 * null[148] + 0.05  # The 99th percentile, on a busy machine.


def test_a_ready_line_that_cannot_be_written_ends_nothing(scripted: Scripted) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    with writing_to("/dev/full") as full:
        process = subprocess.Popen(
            [*COMMAND, "start", scripted().path, "--port", str(port)],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 30
        while not answers(url + "/readyz"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        answer = httpx2.post(url + "/chat", json={"prompt": "Hi"}, timeout=30)
        assert answer.json()["message"] == "You said: Hi"
        process.terminate()
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert "standard output cannot be written: No space left on device" in said
    assert "Traceback" not in said


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.TransportError:
        return False
