"""An engine that notes what reaches it."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator

from openllm.config.model import LoadOptions
from openllm.engines.scripted_engine import ScriptedEngine
from openllm.types import CompletionChunk, GenerateRequest, LocalModel


class RecordingEngine(ScriptedEngine):
    """The scripted engine; `starts` counts the loads of all engines since it was emptied."""

    starts: list[str] = []  # noqa: RUF012

    def __init__(self, model: LocalModel, options: LoadOptions) -> None:
        super().__init__(model, options)
        self.requests: list[GenerateRequest] = []
        self.threads: set[str] = set()
        self.closed = False

    async def start(self) -> None:
        self.starts.append(self._model.name)
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
