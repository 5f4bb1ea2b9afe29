"""Request bodies: read within limits of size and time, then parsed and validated."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TypeVar

from starlette.types import Message, Receive, Scope

from openllm.server.errors import ProtocolError
from openllm.server.offload import offload
from openllm.server.strict_json import parse_object
from openllm.server.validation import WireModel, validate

Request = TypeVar("Request", bound=WireModel)

IDLE_TIMEOUT = 30.0
"""Seconds between two pieces of a body."""

MIN_RATE = 1024
"""Bytes a second that a body comes with, once it has come for `IDLE_TIMEOUT` seconds."""

# A client that is still sending an oversized body reads the refusal only when it is done.
_DISCARD_SECONDS = 0.5


class ClientDisconnectedError(Exception):
    """The client closed the connection; there is nobody to answer."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the body of a JSON request.

    Raises:
        ProtocolError: It is larger than `limit` bytes, not declared as JSON, or comes too slowly.
        ClientDisconnectedError: The client left before the end.
    """
    headers = dict(scope["headers"])
    _check_type(headers)
    if int(headers.get(b"content-length", b"0")) > limit:
        raise await _too_large(headers, receive, limit)
    pieces: list[bytes] = []
    size, more = 0, True
    started = monotonic()
    while more:
        if monotonic() - started > IDLE_TIMEOUT + size / MIN_RATE:
            raise _too_slow(f"the request body comes with less than {MIN_RATE} bytes a second")
        message = await _receive(receive)
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > limit:
            pieces.clear()
            raise await _too_large(headers, receive, limit)
        pieces.append(piece)
        more = message.get("more_body", False)
    return b"".join(pieces)


async def parse_request(raw: bytes, model: type[Request]) -> Request:
    """Parse and validate a body, outside the event loop if it is large.

    Raises:
        InvalidRequestError: It is not what `model` asks for; says where and why.
    """
    return await offload(len(raw), lambda: validate(model, parse_object(raw)))


def _check_type(headers: dict[bytes, bytes]) -> None:
    kind, _, parameters = headers.get(b"content-type", b"").lower().partition(b";")
    if kind.strip() != b"application/json":
        raise ProtocolError(415, "send the request body as Content-Type: application/json")
    charset = parameters.strip().removeprefix(b"charset=").strip(b'"')
    if charset not in (b"", b"utf-8", b"utf8"):
        raise ProtocolError(415, "send the request body in UTF-8")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise ProtocolError(415, "send the request body without Content-Encoding")


async def _receive(receive: Receive) -> Message:
    try:
        message = await asyncio.wait_for(receive(), IDLE_TIMEOUT)
    except asyncio.TimeoutError:
        raise _too_slow(f"no part of the request body came for {IDLE_TIMEOUT:g} s") from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnectedError
    return message


_CLOSE = ((b"connection", b"close"),)


def _too_slow(message: str) -> ProtocolError:
    return ProtocolError(408, message, headers=_CLOSE)


async def _too_large(headers: dict[bytes, bytes], receive: Receive, limit: int) -> ProtocolError:
    """Return the refusal, having read on for a moment if the client is about to finish."""
    if b"expect" not in headers and int(headers.get(b"content-length", b"0")) <= 2 * limit:
        await _discard(receive, limit)
    # What is left of the body is not read, so the connection is of no further use.
    return ProtocolError(413, f"the request body is over {limit} bytes; send less", headers=_CLOSE)


async def _discard(receive: Receive, limit: int) -> None:
    deadline = monotonic() + _DISCARD_SECONDS
    more, size = True, 0
    while more and size <= limit:
        try:
            message = await asyncio.wait_for(receive(), deadline - monotonic())
        except asyncio.TimeoutError:
            return
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
