"""The parent's end of a runner: the engine door, answered by another process."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, TypeVar, cast

import msgspec

from openllm.config.model import ModelConfig
from openllm.errors import EngineCrashedError, EngineStartError, OpenLLMError
from openllm.runner import wire
from openllm.runner.process import RunnerProcess
from openllm.types import (
    Capabilities,
    CompletionChunk,
    EmbeddingOutput,
    GenerateRequest,
    LocalModel,
    Prompt,
)

logger = logging.getLogger("openllm.runner")

Answer = TypeVar("Answer")

# Seconds that a child gets to end by itself.
CLOSE_GRACE = 5.0


class _Stream:
    """Chunks that arrived for one generation and were not taken yet."""

    __slots__ = ("chunks", "ended", "failure", "waiter")

    def __init__(self) -> None:
        self.chunks: list[CompletionChunk] = []
        self.ended = False
        self.failure: OpenLLMError | None = None
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def end(self, failure: OpenLLMError | None) -> None:
        self.ended = True
        self.failure = failure
        self.wake()

    async def take(self) -> list[CompletionChunk]:
        """Wait for chunks; an empty list means the end.

        Raises:
            OpenLLMError: The generation failed; chunks before the failure were given out.
        """
        if not self.chunks and not self.ended:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        chunks, self.chunks = self.chunks, []
        if not chunks and self.failure is not None:
            raise self.failure
        return chunks


class _Connection(asyncio.Protocol):
    def __init__(self, on_message: Callable[[wire.FromWorker], None]) -> None:
        self._on_message = on_message
        self._unframer = wire.Unframer()
        self._transport: asyncio.WriteTransport | None = None
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._unframer.feed(data):
                self._on_message(wire.from_worker.decode(body))
        except (ValueError, msgspec.MsgspecError) as error:
            logger.error("a runner sent what cannot be read (%s); ending it", error)
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def send(self, message: wire.ToWorker) -> None:
        if self._transport is not None and not self.lost.done():
            self._transport.write(wire.encode(message))


class Runner:
    """A model in a child process; the same door as an engine, for one event loop.

    When the child dies every open stream and call fails with `EngineCrashedError`, `lost`
    resolves at once and `died` to how it ended. A Runner is started once; a new one takes its
    place.
    """

    def __init__(self, model: LocalModel, config: ModelConfig | None = None) -> None:
        self.model = model
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.died: asyncio.Future[str] = loop.create_future()
        self._process = RunnerProcess(model, config or ModelConfig())
        self._connection: _Connection | None = None
        self._capabilities: asyncio.Future[Capabilities] = loop.create_future()
        self._streams: dict[int, _Stream] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count()
        self._closing = False
        self._phase = "starting the process"
        self._watch: asyncio.Task[None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities.result()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self, limit: float | None = None) -> None:
        """Start the child and wait until it has loaded the model.

        Args:
            limit: Most seconds that this may take; None for no limit.

        Raises:
            EngineStartError: It could not be loaded, not within the limit, or the child died while
                loading; the message says at what.
        """
        loop = asyncio.get_running_loop()
        try:
            sock = await self._process.start()
        except OSError as error:
            raise EngineStartError(
                f"the runner of model {self.model.name!r} could not be started: {error}"
            ) from error
        _, self._connection = await loop.create_unix_connection(
            lambda: _Connection(self._take), sock=sock
        )
        self._watch = loop.create_task(self._mourn(self._connection))
        try:
            await asyncio.wait_for(asyncio.shield(self._capabilities), limit)
        except asyncio.TimeoutError:
            phase = self._phase
            await self.close()
            raise EngineStartError(
                f"model {self.model.name!r} was not loaded within {limit:g} s, the load_timeout, so"
                f" its process was ended; it had come to: {phase}. If that only takes its time, set"
                " a larger load_timeout",
                param="load_timeout",
            ) from None

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        number = next(self._ids)
        self._send(wire.Generate(number, request))
        stream = self._streams[number] = _Stream()
        try:
            while chunks := await stream.take():
                for chunk in chunks:
                    yield chunk
        finally:
            del self._streams[number]
            if not stream.ended:
                self._cancel(number)

    async def embed(self, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        return await self._call(lambda call: wire.Embed(call, tuple(inputs)), EmbeddingOutput)

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        return await self._call(lambda call: wire.Tokenize(call, text, special), list)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return await self._call(lambda call: wire.Detokenize(call, tuple(token_ids)), str)

    async def health(self) -> bool:
        return await self._call(wire.Health, bool)

    async def close(self) -> None:
        """End the child; open streams fail. Safe to call twice."""
        self._closing = True
        loading = not self._capabilities.done()
        self._capabilities.add_done_callback(lambda done: done.cancelled() or done.exception())
        await self._process.stop(0.0 if loading else CLOSE_GRACE)
        if self._watch is not None:
            await self._watch

    def _send(self, message: wire.ToWorker) -> None:
        if self._connection is None or self.lost.done():
            raise EngineCrashedError(f"the runner of model {self.model.name!r} is not running")
        self._connection.send(message)

    def _cancel(self, number: int) -> None:
        if self._connection is not None:
            self._connection.send(wire.Cancel(number))

    async def _call(self, message: Callable[[int], wire.ToWorker], _: type[Answer]) -> Answer:
        number = next(self._ids)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        try:
            self._send(message(number))
            return await future
        except asyncio.CancelledError:
            self._cancel(number)
            raise
        finally:
            del self._calls[number]

    def _take(self, message: wire.FromWorker) -> None:
        match message:
            case wire.Step(chunks, ended):
                self._take_step(chunks, ended)
            case wire.Loading(phase):
                self._phase = phase
            case wire.Started(capabilities):
                self._capabilities.set_result(capabilities)
            case wire.NotStarted(failure):
                self._capabilities.set_exception(failure.error())
            case wire.Failed(call, failure):
                self._fail(call, failure.error())
            case wire.Embedded(call, value) | wire.Tokens(call, value):
                self._answer(call, value)
            case wire.Text(call, value) | wire.Healthy(call, value):
                self._answer(call, value)

    def _take_step(
        self,
        chunks: Sequence[tuple[int, CompletionChunk]],
        ended: Sequence[tuple[int, wire.Failure | None]],
    ) -> None:
        streams = self._streams
        for number, chunk in chunks:
            if stream := streams.get(number):
                stream.chunks.append(chunk)
                stream.wake()
        for number, failure in ended:
            if stream := streams.get(number):
                stream.end(failure.error() if failure else None)

    def _answer(self, call: int, value: object) -> None:
        pending = self._calls.get(call)
        if pending is not None and not pending.done():
            pending.set_result(value)

    def _fail(self, call: int, error: OpenLLMError) -> None:
        pending = self._calls.get(call)
        if pending is not None and not pending.done():
            pending.set_exception(error)

    async def _mourn(self, connection: _Connection) -> None:
        """Wait for the child's end and tell everyone who waits for it."""
        await connection.lost
        self.lost.set_result(None)
        self._fail_all()  # Before the exit status is known: clients must not wait for it.
        reason = await self._process.exit_reason(CLOSE_GRACE)
        if not self._capabilities.done():
            how = "was stopped" if self._closing else reason
            what = f"the runner of model {self.model.name!r} {how} while loading"
            line = await self._process.last_line()
            said = f"the last line that it wrote: {line}" if line else "it wrote nothing before"
            error = EngineStartError(f"{what} {self.model.path!r}; {said}")
            self._capabilities.set_exception(error)
        self.died.set_result(reason)

    def _fail_all(self) -> None:
        what = "was stopped" if self._closing else "ended unexpectedly"
        message = f"the engine process of model {self.model.name!r} {what} during the request"
        for stream in self._streams.values():
            stream.end(EngineCrashedError(message, retry_after=1))
        for call in self._calls:
            self._fail(call, EngineCrashedError(message, retry_after=1))
