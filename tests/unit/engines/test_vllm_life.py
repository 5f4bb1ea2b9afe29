"""A start of vLLM that is cancelled leaves nothing behind, however far it has come."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from openllm.config.model import LoadOptions
from openllm.engines import vllm_load
from openllm.engines.vllm_engine import VLLMEngine
from openllm.errors import EngineStartError, EngineUnavailableError
from openllm.types import LocalModel

pytestmark = pytest.mark.anyio

MODEL = LocalModel(name="m", path="/m", format="safetensors")


class LoadedSession:
    """As `Session`, of which only the end is asked for."""

    def __init__(self) -> None:
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("fails", [False, True])
async def test_what_was_being_loaded_is_closed(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    loading, go_on = threading.Event(), threading.Event()
    session = LoadedSession()
    folders: list[bool] = []

    def load(_model: LocalModel, _options: LoadOptions, logs: Any) -> Any:
        loading.set()
        assert go_on.wait(30)
        with open(logs.config):  # vLLM's processes read it when they have been imported.
            folders.append(True)
        if fails:
            raise EngineStartError("it cannot be loaded")
        return session

    monkeypatch.setattr(vllm_load, "import_vllm", lambda logs: None)
    monkeypatch.setattr(vllm_load, "load", load)
    engine = VLLMEngine(MODEL, LoadOptions())
    start = asyncio.create_task(engine.start())
    await asyncio.to_thread(loading.wait, 30)
    start.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert (session.closed, folders) == (0 if fails else 1, [True])
    with pytest.raises(EngineUnavailableError):
        _ = engine.capabilities
