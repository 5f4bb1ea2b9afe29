"""Where the chunks of one request wait for whoever reads its stream."""

from __future__ import annotations

import asyncio
from collections import deque

from openllm.errors import OpenLLMError
from openllm.types import CompletionChunk


class ChunkQueue:
    """Chunks in, chunks out, in order; all on one event loop, for one reader."""

    __slots__ = ("_chunks", "_error", "_waiter")

    def __init__(self) -> None:
        self._chunks: deque[CompletionChunk] = deque()
        self._error: OpenLLMError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._chunks)

    def put(self, chunk: CompletionChunk) -> None:
        self._chunks.append(chunk)
        self._wake()

    def fail(self, error: OpenLLMError) -> None:
        """End the request with an error, which its reader meets behind the chunks."""
        if self._error is None:
            self._error = error
        self._wake()

    async def next(self) -> CompletionChunk:
        """Return the next chunk, waiting for it; raises what the request failed with."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._chunks.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
