"""Calls into llama.cpp: each blocks a thread of its own, what it says arrives on the event loop.

Requests wait for their turn on our side (`Gate`), never inside llama.cpp, so a waiting one is
gone at once when it is cancelled. An engine step of llama.cpp calls back once for each running
sequence, each time in another thread; the loop is woken once for all that has arrived by then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from msgspec import DecodeError

from openllm.engines.chunk_queue import ChunkQueue
from openllm.engines.llamacpp_stream import Answer
from openllm.errors import EngineError, EngineUnavailableError, OpenLLMError
from openllm.gate import Gate
from openllm.types import CompletionChunk, SamplingParams

T = TypeVar("T")
Translate = Callable[[Answer], OpenLLMError]


class Generation:
    """One running request, from the event loop's side.

    Attributes:
        cancelled: Makes llama.cpp stop at its next event; read by the native thread.
    """

    __slots__ = ("_answer", "_chunks", "_translate", "cancelled")

    def __init__(
        self, params: SamplingParams, translate: Translate, never: int | None = None
    ) -> None:
        self._answer = Answer(params, never)
        self._translate = translate
        self._chunks = ChunkQueue()
        self.cancelled = False

    async def next(self) -> CompletionChunk | None:
        """Return the next chunk, None after the last one; raises what ended the request."""
        return None if self._answer.ended and not self._chunks else await self._chunks.next()

    def take(self, data: bytes) -> None:
        """Take in one event of llama.cpp."""
        if self.cancelled:
            return
        try:
            chunk = self._answer.take(data)
        except (DecodeError, LookupError) as error:
            self.fail(EngineError(f"llama.cpp sent an event that cannot be read: {error}"))
            return
        if self._answer.error is not None or self._answer.empty:
            self.fail(self._translate(self._answer))
        elif chunk is not None:
            self._chunks.put(chunk)
            self.cancelled = self._answer.ended

    def end(self, error: Exception | None) -> None:
        """Take in that the native call has returned, or raised."""
        if not self.cancelled:
            reason = "ended without a reason" if error is None else f"failed: {error}"
            self.fail(EngineError(f"the generation {reason}"))

    def fail(self, error: OpenLLMError) -> None:
        self.cancelled = True
        if not self._answer.ended:
            self._chunks.fail(error)


class _Ended:
    """The last arrival of a generation."""

    __slots__ = ("error",)

    def __init__(self, error: Exception | None) -> None:
        self.error = error


class Runs:
    """The native calls under way."""

    def __init__(self, server: Any, size: int) -> None:
        self._server = server
        self._slots, self._alone = Gate(), Gate()
        self._slots.open(size)
        self._alone.open(1)
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="llama")
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[tuple[Generation, bytes | _Ended]] = deque()
        self._woken = False
        self._generations: set[Generation] = set()
        self._calls: set[Future[Any]] = set()
        self._all_returned = asyncio.Event()
        self._closed = False

    @property
    def active(self) -> int:
        """Sequences that run or wait."""
        return self._slots.asked

    async def start(
        self,
        body: bytes,
        params: SamplingParams,
        translate: Translate,
        *,
        never: int | None = None,
    ) -> Generation:
        """Wait for a turn, then start a generation; close it by `Generation.cancelled`.

        Args:
            never: Token that ends the request with an error.
        """
        await self._slots.acquire(params.n)
        generation = Generation(params, translate, never)
        self._submit(partial(self._slots.release, params.n), self._generate, generation, body)
        self._generations.add(generation)
        return generation

    async def call_alone(self, function: Callable[..., T], *args: Any) -> T:
        """Wait for a turn, then run a blocking call while no other such call runs."""
        await self._alone.acquire(1)
        try:
            await self._slots.acquire(1)
        except BaseException:
            self._alone.release(1)
            raise

        def release() -> None:
            self._alone.release(1)
            self._slots.release(1)

        return await asyncio.wrap_future(self._submit(release, function, *args))

    async def close(self, patience: float) -> None:
        """Stop everything, waiting at most `patience` seconds for the threads."""
        self._closed = True
        for generation in tuple(self._generations):
            generation.fail(EngineUnavailableError("the model was stopped"))
        if self._calls:
            self._all_returned.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._all_returned.wait(), patience)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._server = None

    def _submit(
        self, release: Callable[[], None], function: Callable[..., T], *args: Any
    ) -> Future[T]:
        """Run a call in a thread; what it holds is released when it has really returned."""
        if self._closed:
            release()
            raise EngineUnavailableError("the model was stopped")
        call = self._pool.submit(function, *args)
        self._calls.add(call)
        call.add_done_callback(lambda call: self._post(self._returned, call, release))
        return call

    def _returned(self, call: Future[Any], release: Callable[[], None]) -> None:
        self._calls.discard(call)
        release()
        if not self._calls:
            self._all_returned.set()

    def _generate(self, generation: Generation, body: bytes) -> None:
        """Run in a thread of the pool: pass on events until llama.cpp or the client has enough."""
        arrived = self._arrived

        def on_event(data: bytes) -> bool:
            if generation.cancelled:
                return True
            arrived.append((generation, data))
            if not self._woken:
                self._woken = True
                self._post(self._drain)
            return False

        error = None
        try:
            self._server.handle_completions(body, on_event)
        except Exception as raised:
            error = raised
        arrived.append((generation, _Ended(error)))
        self._post(self._drain)

    def _drain(self) -> None:
        self._woken = False  # First: what arrives from here on wakes the loop again.
        arrived = self._arrived
        while arrived:
            generation, what = arrived.popleft()
            if isinstance(what, bytes):
                generation.take(what)
            else:
                self._generations.discard(generation)
                generation.end(what.error)

    def _post(self, function: Callable[..., object], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody is left to tell.
            self._loop.call_soon_threadsafe(function, *args)
