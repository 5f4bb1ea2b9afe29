"""BentoML's own command serves the same app."""

from __future__ import annotations

import socket
from collections.abc import Callable

from openllm.types import LocalModel
from tests.e2e.bentoml_process import bentoml_serving


def test_bentoml_serve(scripted: Callable[..., LocalModel]) -> None:
    environment = {"OPEN_LLM_MODELS": scripted().path, "OPEN_LLM_API_KEY": "secret"}
    with bentoml_serving("openllm.bento.service:svc", **environment) as client:
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
        with socket.create_connection(("127.0.0.1", client.base_url.port), timeout=60) as raw:
            raw.sendall(b"no HTTP at all\r\n\r\n")
            answered = b""
            while data := raw.recv(4096):
                answered += data
            assert b'"error"' in answered
