"""Server-sent events as bytes on the wire. Knows nothing of what the events say.

A stream has no timer of its own: whoever runs it asks `due` when to call `check`, which finds a
client that does not read and keeps a silent connection alive with a comment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import monotonic
from typing import Any

from starlette.types import Send

PING_INTERVAL = 15.0
"""Seconds of silence after which a comment is sent; before them no header is."""

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
DONE = b"data: [DONE]\n\n"
_PING = b": ping\n\n"


class SlowClientError(Exception):
    """The client has not read for as long as it may."""


class EventStream:
    """The response body of one stream. The status is sent with the first event, not before."""

    def __init__(self, send: Send, write_timeout: float) -> None:
        self.started = False
        self._send = send
        self._write_timeout = write_timeout
        self._since = monotonic()
        self._writing = False
        self._ping: asyncio.Event | None = None

    async def write(self, data: bytes) -> None:
        """Send whole events; waits while the client does not read."""
        if self._ping is not None:
            await self._ping.wait()
        self._writing = True
        self._since = monotonic()
        if self.started:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        else:
            await self._put(data)
        self._writing = False

    async def end(self) -> None:
        await self._timed(self._put(b"", more=False))

    async def fail(self, error: bytes) -> None:
        """Send an error body as the last event. No `[DONE]` follows: nothing was completed."""
        await self._timed(self._put(b"data: " + error + b"\n\n", more=False))

    def due(self) -> float:
        if self._writing:
            return self._since + self._write_timeout
        # A write that begins meanwhile must be looked at before its time is over.
        return min(self._since + PING_INTERVAL, monotonic() + self._write_timeout)

    async def check(self) -> None:
        """Keep the stream alive.

        Raises:
            SlowClientError: A write has waited for too long.
        """
        elapsed = monotonic() - self._since
        if self._writing:
            if elapsed >= self._write_timeout:
                raise SlowClientError
        elif elapsed >= PING_INTERVAL:
            await self._send_ping()

    async def _send_ping(self) -> None:
        self._ping = asyncio.Event()
        try:
            await self._timed(self._put(_PING))
        finally:
            self._ping.set()
            self._ping = None
            self._since = monotonic()

    async def _put(self, data: bytes, *, more: bool = True) -> None:
        if not self.started:
            self.started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _timed(self, write: Coroutine[Any, Any, None]) -> None:
        try:
            await asyncio.wait_for(write, self._write_timeout)
        except asyncio.TimeoutError:
            raise SlowClientError from None
