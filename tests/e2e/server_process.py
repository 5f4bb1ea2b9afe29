"""`openllm start` as a real process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx2

COMMAND = [sys.executable, "-m", "openllm.cli"]


class ServerProcess:
    """A started server: its base URL, and the process."""

    def __init__(self, process: subprocess.Popen[str], ready: dict[str, Any]) -> None:
        self.process = process
        self.ready = ready
        self.url: str = ready["ready"]

    def post(self, path: str, body: object, **options: Any) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, timeout=60, **options)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=60, **options)

    @contextmanager
    def lines(self, path: str, body: object) -> Iterator[Iterator[str]]:
        """Stream the lines of an answer."""
        with httpx2.stream("POST", self.url + path, json=body, timeout=60) as reply:
            yield reply.iter_lines()


def serving(*arguments: str, stderr: int | None = None) -> AbstractContextManager[ServerProcess]:
    """Start a server on a free port, wait until it is ready, and end it."""
    return started([*COMMAND, "start", *arguments, "--port", "0"], stderr)


@contextmanager
def started(command: list[str], stderr: int | None = None) -> Iterator[ServerProcess]:
    """Start a program that serves, wait until it is ready, and end it."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        if process.stdout is None:
            raise RuntimeError("no output to read")
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with status {process.wait()}")
        yield ServerProcess(process, json.loads(line))
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
