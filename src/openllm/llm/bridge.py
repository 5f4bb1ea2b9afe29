"""One event loop, in a thread of its own, on which all engines of this process work.

So a model can be used from a script, from several threads and from several event loops, such as
that of a notebook: none of them is held up, and none of them holds up the others. The loop knows
nothing of models.

    call, sync_call        run a coroutine over there and wait for its result
    stream, sync_stream    iterate over there and hand the items over

Leaving a call or a stream, by whatever way, cancels its work over there.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Generic, TypeVar

from openllm.errors import EngineUnavailableError

T = TypeVar("T")

MOST_WAITING = 256
"""Items that wait for a reader before the engine's stream is read no further."""
EXIT_SECONDS = 5.0


class _Crossing(Generic[T]):
    """Items on their way from the bridge's loop to one reader, in whatever thread that is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()  # Guards what both sides change: the four below.
        self._ready: list[T] = []
        self._ended = False
        self._wake: Callable[[], object] | None = None
        self._room: asyncio.Future[None] | None = None
        self._error: BaseException | None = None

    async def fill(self, items: AsyncGenerator[T, None]) -> None:
        """Read `items` to the end, on the bridge's loop; their error becomes the reader's."""
        try:
            async with aclosing(items):
                async for item in items:
                    if room := self._put(item):
                        await room
        except asyncio.CancelledError:  # Unless the reader left, the bridge ends.
            self._error = EngineUnavailableError("the model was closed during the request")
        except BaseException as error:
            self._error = error
        self._end()

    def batch(self, wake: Callable[[], object]) -> list[T] | None:
        """Return what has arrived; nothing at the end, None if `wake` will say when to ask again.

        Raises:
            BaseException: What ended the items; those before it were given out.
        """
        with self._lock:
            if not self._ready and not self._ended:
                self._wake = wake
                return None
            batch, self._ready = self._ready, []
            room, self._room = self._room, None
        if room is not None:
            _tell(self._loop, _resolve, room)
        if not batch and self._error is not None:
            raise self._error
        return batch

    def _put(self, item: T) -> asyncio.Future[None] | None:
        """Hand over an item; return what to wait for if the reader lags too far behind."""
        with self._lock:
            self._ready.append(item)
            if len(self._ready) >= MOST_WAITING:
                self._room = self._loop.create_future()
            wake, self._wake = self._wake, None
            room = self._room
        if wake is not None:
            wake()
        return room

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            wake, self._wake = self._wake, None
        if wake is not None:
            with suppress(RuntimeError):  # The reader's loop is closed: nobody is left to tell.
                wake()


class Bridge:
    """The loop and its thread; get it by `the_bridge`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[asyncio.Task[None], bool] = {}  # Streams; whether of the main thread.
        self._open: dict[object, Callable[[], Coroutine[Any, Any, None]]] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, name="openllm", daemon=True)
        self._thread.start()
        atexit.register(self.stop)
        _before_threads_are_joined(self._abandon)

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` over there without blocking the caller's loop."""
        return await asyncio.wrap_future(self._submit(work))

    def sync_call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` over there; blocks this thread.

        Raises:
            RuntimeError: This thread is the bridge's own, and would wait for itself.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a sync call on the engines' own thread would wait for itself")
        future = self._submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Without effect unless we were interrupted.
            raise

    def post(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start `work` over there and return at once; may be called from anywhere."""
        _tell(self._loop, lambda: self._start(work(), of_main=False))

    def keep(self, who: object, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have `close` called over there when the process ends, unless `who` is dropped before.

        It is called before all that was registered with `atexit` until now, such as the end of the
        child processes that an engine started.
        """
        self._open[who] = close
        atexit.unregister(self.stop)
        atexit.register(self.stop)

    def drop(self, who: object) -> None:
        """Forget what `keep` was told."""
        self._open.pop(who, None)

    async def stream(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """Yield `items`, which are iterated over there, without blocking the caller's loop."""
        crossing, leave = self._cross(items)
        loop = asyncio.get_running_loop()
        try:
            while True:
                waiter = loop.create_future()
                batch = crossing.batch(partial(loop.call_soon_threadsafe, _resolve, waiter))
                if batch is None:
                    await waiter
                    continue
                if not batch:
                    return
                for item in batch:
                    yield item
        finally:
            leave()

    def sync_stream(self, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """Yield `items`, which are iterated over there; blocks this thread between them."""
        crossing, leave = self._cross(items)
        try:
            while True:
                waiter = threading.Lock()
                waiter.acquire()
                batch = crossing.batch(waiter.release)
                if batch is None:
                    waiter.acquire()
                    continue
                if not batch:
                    return
                yield from batch
        finally:
            leave()

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise EngineUnavailableError("this Python process is ending") from None

    def _cross(self, items: AsyncGenerator[T, None]) -> tuple[_Crossing[T], Callable[[], None]]:
        """Start reading `items`; return where they arrive, and what to call when leaving."""
        crossing: _Crossing[T] = _Crossing(self._loop)
        of_main = threading.current_thread() is threading.main_thread()
        tasks: list[asyncio.Task[None]] = []

        def enter() -> None:
            tasks.append(self._start(crossing.fill(items), of_main=of_main))

        def leave() -> None:
            _tell(self._loop, lambda: tasks[0].cancel())

        _tell(self._loop, enter)
        return crossing, leave

    def _start(self, work: Coroutine[Any, Any, None], *, of_main: bool) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks[task] = of_main
        task.add_done_callback(self._tasks.pop)
        return task

    def _abandon(self) -> None:
        """End the streams that the main thread, which has ended, can no longer read."""
        _tell(self._loop, self._cancel, True)

    def _cancel(self, only_of_main: bool) -> None:
        for task, of_main in tuple(self._tasks.items()):
            if of_main or not only_of_main:
                task.cancel()

    def stop(self) -> None:
        """Close what is open and end the thread, as the process ends."""
        with suppress(Exception):
            self._submit(self._clear()).result(EXIT_SECONDS)
        _tell(self._loop, self._loop.stop)
        self._thread.join(EXIT_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    async def _clear(self) -> None:
        self._loop.set_default_executor(_InPlace())
        self._cancel(only_of_main=False)
        await asyncio.gather(*(work() for work in self._open.values()), return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks)


class _InPlace(ThreadPoolExecutor):
    """Runs each call at once: when the process ends, threads can no longer be started."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    with suppress(RuntimeError):  # The loop is closed: the process ends.
        loop.call_soon_threadsafe(function, *args)


def _before_threads_are_joined(function: Callable[[], None]) -> None:
    """Call `function` when the main thread has ended, before Python waits for other threads.

    It waits for those of executors, in which an engine may be at work, before it calls the
    functions of `atexit`. The way in is not documented; without it only the exit takes longer.
    """
    # `concurrent.futures.thread` registered its own when it was imported; the last is called first.
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        with suppress(RuntimeError):  # Python waits already.
            register(function)


_bridge: Bridge | None = None
_making = threading.Lock()


def the_bridge() -> Bridge:
    """Return the bridge of this process, made when first asked for."""
    global _bridge
    with _making:
        if _bridge is None:
            _bridge = Bridge()
        return _bridge


def _after_fork() -> None:
    """Forget the parent's bridge: its thread is not in this process."""
    global _bridge, _making
    if _bridge is not None:
        atexit.unregister(_bridge.stop)
    _bridge = None
    _making = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
