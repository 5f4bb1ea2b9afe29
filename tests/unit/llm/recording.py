"""An engine that notes what reaches it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator

from openllm.config.model import LoadOptions
from openllm.engines.scripted_engine import ScriptedEngine
from openllm.types import CompletionChunk, GenerateRequest, LocalModel


class RecordingEngine(ScriptedEngine):
    """The scripted engine.

    Attributes:
        starts: The loads of all engines since it was emptied.
        held: Whether loads wait.
        free: Set unless engines wait where they are made.
    """

    starts: list[str] = []  # noqa: RUF012
    held = False
    free = threading.Event()
    free.set()

    def __init__(self, model: LocalModel, options: LoadOptions) -> None:
        super().__init__(model, options)
        if not self.free.wait(60):
            raise TimeoutError
        self.requests: list[GenerateRequest] = []
        self.threads: set[str] = set()
        self.closed = False

    async def start(self) -> None:
        self.starts.append(self._model.name)
        while self.held:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await super().start()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        self.requests.append(request)
        self.threads.add(threading.current_thread().name)
        stream = super().generate(request)
        try:
            async for chunk in stream:
                yield chunk
        finally:
            await stream.aclose()

    async def close(self) -> None:
        self.closed = True
        await super().close()
