"""A bounded first-come queue in front of a model. Knows nothing of models or requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from openllm.errors import OpenLLMError, OverloadedError

# What a refused client is asked to wait: about one short answer.
RETRY_AFTER = 2.0


class Gate:
    """Lets at most `capacity` units of work through; the rest wait in order.

    A closed gate lets nothing through but keeps those who wait; `open` lets them in.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._capacity = 0
        self._running = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._waiting)

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
        """Hold `units` of the capacity, fewer if that is all there is.

        Raises:
            OverloadedError: Too many wait already.
        """
        if self._waiting or not self._fits(units):
            await self._wait(units)
        else:
            self._running += units
        try:
            yield
        finally:
            self._running -= units
            self._admit()

    def _fits(self, units: int) -> bool:
        return self._capacity > 0 and (
            self._running + units <= self._capacity or self._running == 0
        )

    async def _wait(self, units: int) -> None:
        if len(self._waiting) >= self._max_waiting:
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
