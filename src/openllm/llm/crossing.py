"""How a stream gets from the bridge's loop to its reader, who may be in any thread or loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any, Generic, TypeVar

from openllm.errors import EngineUnavailableError

T = TypeVar("T")

MOST_WAITING = 256
"""Items that wait for a reader before the engine's stream is read no further."""


class Crossing(Generic[T]):
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
            tell(self._loop, resolve, room)
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


def resolve(waiter: asyncio.Future[None]) -> None:
    """Wake who waits, unless that was cancelled."""
    if not waiter.done():
        waiter.set_result(None)


def tell(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    """Call `function` on a loop of another thread, if that still turns."""
    with suppress(RuntimeError):  # The loop is closed: the process ends.
        loop.call_soon_threadsafe(function, *args)
