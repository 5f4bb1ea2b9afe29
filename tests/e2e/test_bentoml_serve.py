"""BentoML's own command serves the same app."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import httpx2

from openllm.types import LocalModel


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def until_ready(url: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx2.get(f"{url}/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.25)
    raise AssertionError(f"{url} was not ready within {seconds} s")


def test_bentoml_serve(scripted: Callable[..., LocalModel]) -> None:
    port = free_port()
    environment = {
        **os.environ, "OPEN_LLM_MODELS": scripted().path, "OPEN_LLM_API_KEY": "secret",
        "BENTOML_DO_NOT_TRACK": "True",
    }  # fmt: skip
    command = [sys.executable, "-m", "bentoml", "serve", "openllm.bento.service:svc"]
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], env=environment,
        start_new_session=True,
    ) as process:  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        try:
            until_ready(url)
            header = {"Authorization": "Bearer secret"}
            answer = httpx2.post(f"{url}/chat", json={"prompt": "hello"}, headers=header)
            assert answer.json()["message"] == "You said: hello"
            for path in ("/", "/docs.json", "/schema.json", "/metrics", "/v1/models"):
                refused = httpx2.get(url + path)
                assert refused.status_code == 401, path
                assert refused.json()["error"]["type"]
            with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
                raw.sendall(b"no HTTP at all\r\n\r\n")
                assert b'"error"' in raw.recv(4096)
            for path in ("/no/such/route", "/docs.json", "/schema.json"):
                missing = httpx2.get(url + path, headers=header)
                assert missing.status_code == 404, path
                assert set(missing.json()["error"]) == {"message", "type", "param", "code"}
            page = httpx2.get(url, headers=header, follow_redirects=True)
            assert (page.status_code, page.url.path) == (200, "/docs")
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)
