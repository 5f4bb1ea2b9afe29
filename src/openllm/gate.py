"""A first-come queue for units of work. Knows nothing of models or requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from openllm.errors import OpenLLMError, OverloadedError

# What a refused client is asked to wait: about one short answer.
RETRY_AFTER = 2.0


class Gate:
    """Lets at most a capacity of units through at once; the rest wait in the order of asking.

    Who asks for many is not overtaken by later ones who ask for few, and who asks for more than
    the capacity passes alone. A closed gate, as it is at first, lets nobody through but keeps
    those who wait; `open` lets them in. To be used from one event loop only.
    """

    def __init__(self, max_waiting: int | None = None) -> None:
        """`max_waiting`: how many may wait; None lets all who come."""
        self._max_waiting = max_waiting
        self._capacity = 0
        self._running = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    @property
    def running(self) -> int:
        """Units that are held."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many wait, whatever they ask for."""
        return len(self._waiting)

    @property
    def asked(self) -> int:
        """Units that are held or waited for."""
        return self._running + sum(
            units for future, units in self._waiting if not future.cancelled()
        )

    def open(self, capacity: int) -> None:
        """Let up to `capacity` units run."""
        self._capacity = capacity
        self._admit()

    def close(self) -> None:
        """Let nobody in until `open`; whoever waits goes on waiting."""
        self._capacity = 0

    def refuse(self, error: OpenLLMError) -> None:
        """Close, and fail everyone who waits."""
        self.close()
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(error)

    @asynccontextmanager
    async def passage(self, units: int) -> AsyncIterator[None]:
        """Hold `units` within the block; raises as `acquire` does."""
        await self.acquire(units)
        try:
            yield
        finally:
            self.release(units)

    async def acquire(self, units: int) -> None:
        """Wait for `units`, to be given back by `release`; being cancelled gives the place up.

        Raises:
            OverloadedError: Too many wait already.
        """
        if self._waiting or not self._fits(units):
            await self._wait(units)
        else:
            self._running += units

    def release(self, units: int) -> None:
        self._running -= units
        self._admit()

    def _fits(self, units: int) -> bool:
        return self._capacity > 0 and (
            self._running + units <= self._capacity or self._running == 0
        )

    async def _wait(self, units: int) -> None:
        if self._max_waiting is not None and len(self._waiting) >= self._max_waiting:
            raise OverloadedError(
                f"the queue is full: {len(self._waiting)} requests wait already; try again later",
                retry_after=RETRY_AFTER,
            )
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (future, units)
        self._waiting.append(entry)
        try:
            await future
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif future.done() and not future.cancelled() and future.exception() is None:
                self._running -= units  # Admitted and cancelled in the same turn of the loop.
            self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][1]):
            future, units = self._waiting.popleft()
            if not future.done():
                self._running += units
                future.set_result(None)
