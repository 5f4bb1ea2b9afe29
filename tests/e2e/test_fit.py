"""The estimate of memory against what a running server takes."""

from __future__ import annotations

import json
from typing import Any

import psutil
import pytest

from tests.e2e.server_process import run, serving
from tests.processes import runners

# Measured on Linux x86-64: 1.06 times what the demo model takes on llama.cpp.
FACTOR = 1.5


def estimated(*arguments: str) -> dict[str, Any]:
    done = run("fit", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    row: dict[str, Any] = json.loads(done.stdout)["engines"][0]
    return row


@pytest.mark.parametrize("arguments", [(), ("--context-length", "256", "--max-concurrency", "2")])
def test_the_estimate_is_near_what_the_demo_model_takes(arguments: tuple[str, ...]) -> None:
    need = estimated("demo", *arguments)["need"]
    with serving("demo", *arguments) as server:
        reply = server.post("/v1/completions", {"model": "demo", "prompt": "a " * 200})
        assert reply.status_code == 200
        process = psutil.Process(server.process.pid)
        family = [process, *runners(process.pid)]
        resident = sum(each.memory_info().rss for each in family)
    assert resident / FACTOR < need < resident * FACTOR
