"""Logs on a full disk: the server goes on, and as fast as before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx2
import psutil
import pytest

from openllm.types import LocalModel
from tests.e2e.bentoml_process import until_ready
from tests.e2e.server_process import COMMAND, ServerProcess, serving
from tests.ports import free_port

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


def seconds_of(server: ServerProcess, requests: int) -> float:
    """Return the processor's time that some requests cost the server's own process."""
    process = psutil.Process(server.process.pid)
    begun = sum(process.cpu_times()[:2])
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        for number in range(requests):
            answer = client.post("/chat", json={"prompt": str(number)})
            assert answer.json()["message"] == f"You said: {number}"
    return float(sum(process.cpu_times()[:2]) - begun)


def test_logs_that_cannot_be_written_change_nothing(scripted: Scripted) -> None:
    taken = {"/dev/null": 0.0, "/dev/full": 0.0}
    with ExitStack() as stack:
        servers = {}
        for path in taken:
            log = stack.enter_context(writing_to(path))
            flags = (scripted().path, "--access-log", "--log-level", "debug")
            servers[path] = stack.enter_context(serving(*flags, stderr=log))
        for _ in range(10):  # By turns, so that both meet what else the machine does.
            for path, server in servers.items():
                taken[path] += seconds_of(server, 30)
        lines = servers["/dev/full"].get("/v1/chat/completions")
        assert lines.status_code == 405
    assert [server.process.returncode for server in servers.values()] == [0, 0]
    assert taken["/dev/full"] < 1.5 * taken["/dev/null"] + 0.1, taken


def test_a_ready_line_that_cannot_be_written_ends_nothing(scripted: Scripted) -> None:
    port = free_port()
    with writing_to("/dev/full") as full:
        process = subprocess.Popen(
            [*COMMAND, "start", scripted().path, "--port", str(port)],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        until_ready(url, process)
        answer = httpx2.post(url + "/chat", json={"prompt": "Hi"}, timeout=60)
        assert answer.json()["message"] == "You said: Hi"
        process.terminate()
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert "standard output cannot be written: No space left on device" in said
    assert "Traceback" not in said
