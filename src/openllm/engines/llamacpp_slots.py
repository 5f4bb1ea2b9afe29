"""Permits of the sequences that may be generated at once, handed out in the order of asking."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """A first-in-first-out semaphore that is acquired by several permits at once.

    A waiter that asks for many is not overtaken by later ones that ask for few. To be used from
    one event loop only.

    Attributes:
        free: Permits that nobody holds.
    """

    def __init__(self, size: int) -> None:
        self.free = size
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """Permits that are asked for and not yet free."""
        return sum(count for count, granted in self._queue if not granted.cancelled())

    async def acquire(self, count: int) -> None:
        """Wait for `count` permits; being cancelled gives the place in the queue up."""
        if self.free >= count and not self._queue:
            self.free -= count
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (count, granted)
        self._queue.append(place)
        try:
            await granted
        except asyncio.CancelledError:
            if place in self._queue:
                self._queue.remove(place)
                self._grant()
            else:  # Granted in the same turn of the loop.
                self.release(count)
            raise

    def release(self, count: int) -> None:
        self.free += count
        self._grant()

    def _grant(self) -> None:
        while self._queue and self._queue[0][0] <= self.free:
            count, granted = self._queue[0]
            if granted.cancelled():  # Its waiter takes itself off the queue.
                return
            self._queue.popleft()
            self.free -= count
            granted.set_result(None)
