"""Runners without a process, for the fleet."""

from __future__ import annotations

import asyncio

import pytest

from openllm.config.model import ModelConfig
from openllm.errors import EngineStartError
from openllm.types import Capabilities, LocalModel


def model(name: str = "demo", path: str = "") -> LocalModel:
    return LocalModel(name=name, path=path or f"/models/{name}.gguf", format="gguf")


class FakeRunner:
    """A runner that dies on demand.

    Attributes:
        made: All of them.
        loads: Whether they start.
        breaks: Paths of models that do not.
        trouble: What is raised then.
    """

    made: list[FakeRunner]
    loads: bool
    breaks: set[str]
    trouble: Exception = EngineStartError("the file is broken")

    def __init__(self, model: LocalModel, config: ModelConfig) -> None:
        self.model = model
        self.config = config
        self.closed = False
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.died: asyncio.Future[str] = loop.create_future()
        self.capabilities = Capabilities(
            engine="fake", engine_version="1", context_length=8, max_concurrency=1
        )
        self.made.append(self)

    async def start(self, limit: float | None = None) -> None:
        if not self.loads or self.model.path in self.breaks:
            raise self.trouble

    async def close(self) -> None:
        self.closed = True

    def die(self) -> None:
        self.lost.set_result(None)
        self.died.set_result("was killed by SIGKILL")


def install(monkeypatch: pytest.MonkeyPatch) -> type[FakeRunner]:
    """Have the fleet use fake runners; returns their class, of this test alone."""
    runner = type("Runner", (FakeRunner,), {"made": [], "loads": True, "breaks": set()})
    monkeypatch.setattr("openllm.fleet.served.Runner", runner)
    monkeypatch.setattr("openllm.fleet.served.FIRST_BACKOFF", 0.05)
    return runner
