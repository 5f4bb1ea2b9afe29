"""The door of the gRPC server: our socket and TLS, with gRPC's own core behind a Unix socket.

Bytes pass as they are, but the request headers are read on the way: the asyncio side of grpcio ends
the whole server on a path that is no UTF-8. gRPC's headers are ASCII, and a connection with others
is closed here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Collection, Iterator
from ssl import SSLContext
from typing import cast

from hpack import Decoder, HPACKError

logger = logging.getLogger("openllm.server")

HANDSHAKE_SECONDS = 30.0
"""For TLS, and then for the first frame."""

_PREFACE_BYTES = 24
_HEAD_BYTES = 9
_DATA, _HEADERS, _RST_STREAM, _CONTINUATION = 0, 1, 3, 9
_END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x4, 0x8, 0x20
_PRIORITY_BYTES = 5
_MAX_BLOCK = 64 * 1024
_MAX_SMALL = 4096
_MAX_SMALL_CALLS = 1000
# Stream 0, last stream 0, PROTOCOL_ERROR.
_GOAWAY = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\1"


class BadRequestError(Exception):
    """The connection carries what must not reach the core."""


class Screen:
    """Reads what a client sends as HTTP/2 frames, as far as to see the headers of its requests."""

    def __init__(self, small: Collection[str] = ()) -> None:
        """`small`: paths of calls that send at most 4 KiB, as they are open to anyone."""
        self._decoder = Decoder(max_header_list_size=_MAX_BLOCK)
        self._held = bytearray()
        self._passing = _PREFACE_BYTES
        self._block = bytearray()
        self._open_block = False
        self._ends_stream = False
        self._small = frozenset(map(str.encode, small))
        self._sent: dict[int, int] = {}

    def feed(self, data: bytes) -> bytes:
        """Return what may go on to the core by now, in order; the rest is kept for later.

        Raises:
            BadRequestError: Headers are not ASCII, too long or malformed, or too much is sent.
        """
        if not self._held and self._passing >= len(data):
            self._passing -= len(data)
            return data
        self._held += data
        return b"".join(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        while self._held:
            if self._passing:
                yield self._take(min(self._passing, len(self._held)), passing=True)
                continue
            if len(self._held) < _HEAD_BYTES:
                return
            size, kind, flags = int.from_bytes(self._held[:3], "big"), self._held[3], self._held[4]
            stream = int.from_bytes(self._held[5:_HEAD_BYTES], "big")
            if kind not in (_HEADERS, _CONTINUATION):
                self._weigh(kind, flags, stream, size)
                self._passing = _HEAD_BYTES + size
                continue
            if size > _MAX_BLOCK:
                raise BadRequestError("headers are too long")
            if len(self._held) < _HEAD_BYTES + size:
                return
            frame = self._take(_HEAD_BYTES + size)
            self._look(kind, flags, stream, frame[_HEAD_BYTES:])
            yield frame

    def _take(self, size: int, *, passing: bool = False) -> bytes:
        taken = bytes(self._held[:size])
        del self._held[:size]
        if passing:
            self._passing -= size
        return taken

    def _weigh(self, kind: int, flags: int, stream: int, size: int) -> None:
        """Check a frame that has no headers."""
        if self._open_block:
            raise BadRequestError("headers are interrupted")
        if stream not in self._sent:
            return
        if kind == _DATA:
            self._sent[stream] += size
        if self._sent[stream] > _MAX_SMALL:
            raise BadRequestError("a call that is open to anyone sends too much")
        if kind == _RST_STREAM or (kind == _DATA and flags & _END_STREAM):
            del self._sent[stream]

    def _look(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Check a frame of headers; every one is decoded, as later ones may refer to it."""
        if (kind == _CONTINUATION) != self._open_block:
            raise BadRequestError("headers are out of order")
        if kind == _HEADERS:
            self._ends_stream = bool(flags & _END_STREAM)
            payload = _fragment(flags, payload)
        self._block += payload
        self._open_block = not flags & _END_HEADERS
        if len(self._block) > _MAX_BLOCK:
            raise BadRequestError("headers are too long")
        if self._open_block:
            return
        for name, value in _decoded(self._decoder, bytes(self._block)):
            if name == b":path" and value in self._small:
                self._sent[stream] = 0
        self._block.clear()
        if self._ends_stream:
            self._sent.pop(stream, None)
        if len(self._sent) > _MAX_SMALL_CALLS:
            raise BadRequestError("too many calls that are open to anyone")


def _decoded(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    try:
        fields = [(field[0], field[1]) for field in decoder.decode(block, raw=True)]
        b"".join(name + value for name, value in fields).decode("ascii")
    except (HPACKError, UnicodeDecodeError) as error:
        raise BadRequestError(f"headers are malformed: {error}") from None
    return fields


def _fragment(flags: int, payload: bytes) -> bytes:
    """Return the header block of a HEADERS frame, without padding and priority."""
    start, padding = 0, 0
    if flags & _PADDED:
        start, padding = 1, payload[0] if payload else 0
    if flags & _PRIORITY:
        start += _PRIORITY_BYTES
    if start + padding > len(payload):
        raise BadRequestError("headers are padded beyond their frame")
    return payload[start : len(payload) - padding]


class _Side(asyncio.Protocol):
    """One end of a relayed connection; what it reads is written to the other."""

    transport: asyncio.Transport
    other: _Side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.other.write(data)

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        self.other.finish()

    def write(self, data: bytes) -> None:
        """Send, unless the end is being closed."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def finish(self) -> None:
        """Close when what was written has been read, or soon after if it is not."""
        if not self.transport.is_closing():
            self.transport.close()
            asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self.transport.abort)


class _Client(_Side):
    """The end that a client is at."""

    def __init__(self, path: str, live: set[_Client], screen: Screen) -> None:
        self._path = path
        self._live = live
        self._screen = screen
        self._early = b""
        self._connected = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._live.add(self)
        self.transport.pause_reading()
        self._connecting = asyncio.ensure_future(self._connect())

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        try:
            passed = self._screen.feed(data)
        except BadRequestError as error:
            logger.debug("a connection was closed: %s", error)
            self.write(_GOAWAY)
            self.finish()
            if self._connected:
                self.other.finish()
            return
        if self._connected:
            self.other.write(passed)
        else:  # Reading is paused, but something was on its way here.
            self._early += passed

    def connection_lost(self, error: Exception | None) -> None:
        self._live.discard(self)
        if self._connected:
            super().connection_lost(error)

    async def _connect(self) -> None:
        core = _Side()
        core.other = self
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: core, self._path)
        except OSError as error:
            logger.error("a connection was dropped: the gRPC core does not answer: %s", error)
            self.transport.abort()
            return
        self.other, self._connected = core, True
        if self.transport.is_closing():
            core.finish()
        else:
            core.write(self._early)
            self.transport.resume_reading()


class Relay:
    """Passes connections of a listening socket on to a Unix socket."""

    def __init__(self, path: str, small: Collection[str]) -> None:
        """`small` as in `Screen`."""
        self._path = path
        self._small = small
        self._clients: set[_Client] = set()
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket, tls: SSLContext | None, backlog: int) -> None:
        """Take connections from `sock`, which listens already."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Client(self._path, self._clients, Screen(self._small)),
            sock=sock,
            ssl=tls,
            backlog=backlog,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if tls else None,
        )

    def refuse(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()

    def close(self) -> None:
        """End those that are left."""
        for client in tuple(self._clients):
            client.finish()
