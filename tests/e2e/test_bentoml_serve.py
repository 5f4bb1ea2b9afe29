"""BentoML's own command serves the same app."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import httpx2

from openllm.types import LocalModel
from tests.ports import free_port
from tests.waiting import wait_until


def until_ready(url: str, seconds: float = 120.0) -> None:
    wait_until(lambda: answers(url + "/readyz"), seconds)


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        return httpx2.get(url, timeout=20).status_code == 200
    except httpx2.TransportError:
        return False


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
            with httpx2.Client(base_url=url, timeout=60) as client:
                for path in ("/", "/docs.json", "/schema.json", "/metrics", "/v1/models"):
                    refused = client.get(path)
                    assert refused.status_code == 401, path
                    assert refused.json()["error"]["type"]
                client.headers["Authorization"] = "Bearer secret"
                answer = client.post("/chat", json={"prompt": "hello"})
                assert answer.json()["message"] == "You said: hello"
                for path in ("/no/such/route", "/docs.json", "/schema.json"):
                    missing = client.get(path)
                    assert missing.status_code == 404, path
                    assert set(missing.json()["error"]) == {"message", "type", "param", "code"}
                page = client.get("/", follow_redirects=True)
                assert (page.status_code, page.url.path) == (200, "/docs")
            with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
                raw.sendall(b"no HTTP at all\r\n\r\n")
                assert b'"error"' in raw.recv(4096)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)
