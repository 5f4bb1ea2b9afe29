"""The child process: one `ChatEngine` served on a Unix socket until its parent is gone.

Started as `python -m openllm.runner.worker FD`, FD a socket that is connected to the parent, with a
`wire.Launch` as JSON on standard input. That stays open: its end means that the parent has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from typing import Any, cast

import msgspec

from openllm.config.model import ModelConfig
from openllm.errors import EngineCrashedError
from openllm.llm.chat_engine import ChatEngine
from openllm.runner import wire
from openllm.types import CompletionChunk

logger = logging.getLogger("openllm.runner")

PR_SET_PDEATHSIG = 1
LAST_WORDS = 0.2  # Seconds that what is under way has to reach the parent before the process ends.


class Worker(asyncio.Protocol):
    """Answers the parent, which asks for nothing before it was told that the model is loaded."""

    _llm: ChatEngine

    def __init__(self) -> None:
        self._unframer = wire.Unframer()
        self._transport: asyncio.Transport | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._given_up: set[int] = set()
        self._chunks: list[tuple[int, CompletionChunk]] = []
        self._ended: list[tuple[int, wire.Failure | None]] = []
        self._flush_scheduled = False
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        os._exit(0)  # Nobody is left to answer; native threads must not delay the end.

    def data_received(self, data: bytes) -> None:
        for body in self._unframer.feed(data):
            self._take(wire.to_worker.decode(body))

    def tell_phase(self, phase: str) -> None:
        self._send(wire.Loading(phase))

    def serve(self, llm: ChatEngine) -> None:
        """Answer with this model from now on."""
        self._llm = llm
        self._send(wire.Started(llm.capabilities))

    def give_up(self, error: Exception) -> None:
        """Say why there is no model."""
        self._send(wire.NotStarted(wire.Failure.of(error)))

    def _take(self, message: wire.ToWorker) -> None:
        match message:
            case wire.Cancel(number):
                if running := self._tasks.get(number):
                    self._given_up.add(number)
                    running.cancel()
            case wire.Generate(number, _):
                self._run(number, self._generate(message))
            case wire.Embed(number, inputs):
                self._run(number, self._answer(number, self._embed, inputs))
            case wire.Tokenize(number, text, special):
                self._run(number, self._answer(number, self._tokenize, text, special))
            case wire.Detokenize(number, token_ids):
                self._run(number, self._answer(number, self._detokenize, token_ids))
            case wire.Health(number):
                self._run(number, self._answer(number, self._health))

    def _run(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[number] = self._loop.create_task(work)
        task.add_done_callback(lambda _: self._forget(number))

    def _forget(self, number: int) -> None:
        del self._tasks[number]
        self._given_up.discard(number)

    async def _generate(self, message: wire.Generate) -> None:
        failure: wire.Failure | None = None
        stream = message.stream
        try:
            async with aclosing(self._llm.generate(message.request)) as chunks:
                async for chunk in chunks:
                    self._chunks.append((stream, chunk))
                    self._schedule_flush()
        except (Exception, asyncio.CancelledError) as error:
            if self._expected(error, stream):
                return
            failure = self._failure(error, f"request {message.request.request_id}")
        self._ended.append((stream, failure))
        self._schedule_flush()

    def _schedule_flush(self) -> None:
        # Every stream that a step advances runs in the same turn of the loop, before the flush.
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        step = wire.Step(tuple(self._chunks), tuple(self._ended))
        self._chunks.clear()
        self._ended.clear()
        self._send(step)

    async def _answer(
        self, call: int, answer: Callable[..., Coroutine[Any, Any, wire.FromWorker]], *args: object
    ) -> None:
        try:
            self._send(await answer(call, *args))
        except (Exception, asyncio.CancelledError) as error:
            if not self._expected(error, call):
                self._send(wire.Failed(call, self._failure(error, f"call {call}")))

    def _expected(self, error: BaseException, number: int) -> bool:
        """Whether the parent asked for it; an engine, too, may cancel what a request waits for."""
        return isinstance(error, asyncio.CancelledError) and number in self._given_up

    def _failure(self, error: BaseException, what: str) -> wire.Failure:
        failure = wire.Failure.of(error)
        if failure.kind == "EngineError":
            logger.error("%s failed", what, exc_info=error)
        if isinstance(error, EngineCrashedError):
            # The engine's own process died: only a new one of ours can bring it back.
            self._loop.call_later(LAST_WORDS, os._exit, 1)
        return failure

    async def _embed(self, call: int, inputs: tuple[Any, ...]) -> wire.FromWorker:
        return wire.Embedded(call, await self._llm.embed(inputs))

    async def _tokenize(self, call: int, text: str, special: bool) -> wire.FromWorker:
        return wire.Tokens(call, await self._llm.tokenize(text, special=special))

    async def _detokenize(self, call: int, token_ids: tuple[int, ...]) -> wire.FromWorker:
        return wire.Text(call, await self._llm.detokenize(token_ids))

    async def _health(self, call: int) -> wire.FromWorker:
        return wire.Healthy(call, await self._llm.health())

    def _send(self, message: wire.FromWorker) -> None:
        try:
            frame = wire.encode(message)
        except Exception:
            # Those who wait for what the frame would have said must learn that it will not come.
            logger.exception("a frame cannot be encoded; ending the process")
            os._exit(1)
        if self._transport is not None:
            self._transport.write(frame)


class Phases(logging.Handler):
    """Tells the parent what is logged while the model is loaded: it says how far that is."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._tell = tell
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        try:  # Engines log in threads of their own, too.
            self._loop.call_soon_threadsafe(self._tell, record.getMessage())
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def telling_phases(tell: Callable[[str], None]) -> Iterator[None]:
    """Tell what our loggers say meanwhile, whatever the level from which on it is shown."""
    ours, phases = logging.getLogger("openllm"), Phases(tell)
    ours.addHandler(phases)
    ours.setLevel(min(ours.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        ours.removeHandler(phases)
        ours.setLevel(logging.NOTSET)


async def serve(connection: socket.socket, launch: wire.Launch) -> None:
    """Load the model, then answer the parent for ever."""
    loop = asyncio.get_running_loop()
    _, worker = await loop.create_unix_connection(Worker, sock=connection)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C is the parent's to handle.
    worker.tell_phase("reading the model's files")
    llm: ChatEngine | None = None
    try:
        with telling_phases(worker.tell_phase):
            config = ModelConfig.model_validate(launch.config)
            llm = ChatEngine(launch.model, config, launch.preprompt)
            await llm.start()
    except Exception as error:
        worker.give_up(error)
    else:
        worker.serve(llm)
    await stop.wait()
    if llm is not None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(llm.close(), timeout=5.0)
    os._exit(0)


def event_loop_runner() -> Callable[[Coroutine[Any, Any, None]], None]:
    try:
        import uvloop
    except ImportError:  # No wheel for this platform.
        return asyncio.run
    return uvloop.run


def die_with_parent() -> None:
    """End this process when standard input ends, whatever the event loop or an engine is doing.

    On Linux the kernel does it too, in case native code keeps Python from running.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def read_launch() -> wire.Launch:
    """Read the one line of JSON that the parent writes."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit("the parent process ended before it said what to load")
        line += byte
    return msgspec.json.decode(bytes(line), type=wire.Launch)


def main() -> None:
    os.dup2(2, 1)  # What native code prints must not look like the server's own output.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    launch = read_launch()
    die_with_parent()
    shown = logging.StreamHandler()
    shown.setLevel(launch.log_level)
    logging.basicConfig(
        level=launch.log_level,
        format=f"%(levelname)s [{launch.model.name}] %(message)s",
        handlers=[shown],
    )
    event_loop_runner()(serve(socket.socket(fileno=int(sys.argv[1])), launch))


if __name__ == "__main__":
    main()
