"""BentoML's own command as a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2

from tests.ports import free_port
from tests.waiting import wait_until


@contextmanager
def bentoml_serving(
    service: str, folder: Path | None = None, **environment: str
) -> Iterator[httpx2.Client]:
    """Serve a service that is found in `folder`, or installed; yields a client of it."""
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", service, "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        env={**os.environ, "BENTOML_DO_NOT_TRACK": "True", **environment},
        cwd=folder,
        start_new_session=True,
    )
    try:
        until_ready(f"http://127.0.0.1:{port}", process)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until_ready(url: str, process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Wait until a server answers that it is ready."""
    wait_until(lambda: _is_ready(url) or process.poll() is not None, 120)
    assert process.poll() is None


def _is_ready(url: str) -> bool:
    try:
        return httpx2.get(url + "/readyz", timeout=20).status_code == 200
    except httpx2.TransportError:
        return False
