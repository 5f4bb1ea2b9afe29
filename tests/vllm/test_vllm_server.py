"""`openllm start` on vLLM: answers, and comes back when vLLM's own process dies."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

import openllm
from tests.e2e.server_process import ServerProcess, serving

FOLDER = Path(openllm.__file__).parent / "demo" / "safetensors"
CHAT = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}


def engine_core(server: ServerProcess) -> psutil.Process:
    """The process in which vLLM computes: the runner's child that uses the most memory."""
    children = psutil.Process(server.process.pid).children(recursive=True)[1:]
    return max(children, key=lambda child: child.memory_info().rss)


@pytest.mark.spec("S1-01", "S1-44")
@pytest.mark.reliability("F-05")
def test_a_dead_engine_is_replaced() -> None:
    options = ("--backend", "vllm", "--dtype", "float32", "--enforce-eager")
    with serving(f"folder={FOLDER}", *options) as server:
        reply = server.post("/v1/chat/completions", CHAT | {"temperature": 0}).json()
        assert reply["choices"][0]["message"]["content"] == "The capital of France is Paris."
        engine_core(server).kill()
        refused = server.post("/v1/chat/completions", CHAT)
        assert refused.status_code in (500, 503)
        deadline = time.monotonic() + 120
        while server.post("/v1/chat/completions", CHAT).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.5)
