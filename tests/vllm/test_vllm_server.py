"""`openllm start` on vLLM: answers, and comes back when vLLM's own process dies."""

from __future__ import annotations

from pathlib import Path

import pytest

import openllm
from tests.e2e.server_process import serving
from tests.vllm.serving import engine_processes
from tests.waiting import wait_until

FOLDER = Path(openllm.__file__).parent / "demo" / "safetensors"
CHAT = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}


@pytest.mark.spec("S1-01", "S1-44")
@pytest.mark.reliability("F-05")
def test_a_dead_engine_is_replaced() -> None:
    options = ("--backend", "vllm", "--dtype", "float32", "--enforce-eager")
    with serving(f"folder={FOLDER}", *options) as server:
        reply = server.post("/v1/chat/completions", CHAT | {"temperature": 0}).json()
        assert reply["choices"][0]["message"]["content"] == "The capital of France is Paris."
        (engine,) = engine_processes(server.process.pid)
        engine.kill()
        refused = server.post("/v1/chat/completions", CHAT)
        assert refused.status_code in (500, 503)
        wait_until(lambda: server.post("/v1/chat/completions", CHAT).status_code == 200, 240)
