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
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from openllm.errors import EngineUnavailableError
from openllm.llm.crossing import Crossing, resolve, tell

T = TypeVar("T")

EXIT_SECONDS = 5.0


class _Caller:
    """Whoever waits for sync calls that other threads make for it."""

    def __init__(self) -> None:
        self._calls: list[Future[Any]] | None = []

    def makes(self, call: Future[Any]) -> None:
        if self._calls is None:
            call.cancel()
        else:
            self._calls.append(call)

    def leave(self) -> None:
        calls, self._calls = self._calls, None
        for call in calls or ():
            call.cancel()


_caller: ContextVar[_Caller | None] = ContextVar("caller", default=None)


@contextmanager
def ending_calls() -> Iterator[None]:
    """End the sync calls that are made for this context, in whatever threads, once it is left."""
    caller = _Caller()
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)
        caller.leave()


class Bridge:
    """The loop and its thread; get it by `the_bridge`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[asyncio.Task[Any], bool] = {}  # Whether of the main thread.
        self._posted: set[asyncio.Task[None]] = set()  # To be finished, whatever happens.
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
        if (caller := _caller.get()) is not None:
            caller.makes(future)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Without effect unless we were interrupted.
            raise

    def post(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start `work` over there and return at once; may be called from anywhere."""

        def start() -> None:
            task = self._loop.create_task(work())
            self._posted.add(task)
            task.add_done_callback(self._posted.discard)

        tell(self._loop, start)

    def start(self, work: Coroutine[Any, Any, T], *, of_main: bool = False) -> asyncio.Task[T]:
        """Start `work`, from over there; cancelled when no thread is left that could wait for it.

        Args:
            of_main: Only the main thread waits for it.
        """
        task = self._loop.create_task(work)
        self._tasks[task] = of_main
        task.add_done_callback(self._tasks.pop)
        return task

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
                batch = crossing.batch(partial(loop.call_soon_threadsafe, resolve, waiter))
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

    def _cross(self, items: AsyncGenerator[T, None]) -> tuple[Crossing[T], Callable[[], None]]:
        """Start reading `items`; return where they arrive, and what to call when leaving."""
        crossing: Crossing[T] = Crossing(self._loop)
        of_main = threading.current_thread() is threading.main_thread()
        tasks: list[asyncio.Task[None]] = []

        def enter() -> None:
            tasks.append(self.start(crossing.fill(items), of_main=of_main))

        def leave() -> None:
            tell(self._loop, lambda: tasks[0].cancel())

        tell(self._loop, enter)
        return crossing, leave

    def _abandon(self) -> None:
        """End what the main thread, which has ended, no longer waits for."""
        main = threading.main_thread()
        goes_on = any(not (each.daemon or each is main) for each in threading.enumerate())
        tell(self._loop, self._cancel, goes_on)

    def _cancel(self, only_of_main: bool) -> None:
        for task, of_main in tuple(self._tasks.items()):
            if of_main or not only_of_main:
                task.cancel()

    def stop(self) -> None:
        """Close what is open and end the thread, as the process ends."""
        try:
            self._submit(self._clear()).result(EXIT_SECONDS)
        except Exception:
            return  # The loop goes on until the process is gone, as do those who still wait on it.
        tell(self._loop, self._loop.stop)
        self._thread.join(EXIT_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    async def _clear(self) -> None:
        self._loop.set_default_executor(_InPlace())
        self._cancel(only_of_main=False)
        await asyncio.gather(*(work() for work in self._open.values()), return_exceptions=True)
        if left := {*self._tasks, *self._posted}:
            await asyncio.wait(left)


class _InPlace(ThreadPoolExecutor):
    """Runs each call at once: when the process ends, threads can no longer be started."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


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
_parent = 0  # The process that had a bridge when this one was forked off.


def the_bridge() -> Bridge:
    """Return the bridge of this process, made when first asked for.

    Raises:
        EngineUnavailableError: This process is a fork of one that had a bridge, and of its engines
            all is here but the threads.
    """
    global _bridge
    with _making:
        if _parent:
            raise EngineUnavailableError(
                f"a model was used in process {_parent} before this one was forked off, and engines"
                " do not survive that; fork before the first use, or start processes by"
                " multiprocessing.get_context('spawn')"
            )
        if _bridge is None:
            _bridge = Bridge()
        return _bridge


def forked() -> bool:
    """Whether what was made with a bridge is of no use here, as that was the parent's."""
    return _parent != 0


def _after_fork() -> None:
    """Forget the parent's bridge: its thread is not in this process."""
    global _bridge, _making, _parent
    if _bridge is not None:
        atexit.unregister(_bridge.stop)
        _parent = os.getppid()
    _bridge = None
    _making = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
