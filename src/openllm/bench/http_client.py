"""A small HTTP/1.1 client for load: one exchange at a time per connection, no queue, no copy.

The body of a reply goes to a callback in the very call in which it arrives from the socket.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import cast
from urllib.parse import urlsplit

import httptools
from msgspec import Struct

from openllm._version import __version__
from openllm.errors import ConfigurationError, OpenLLMError

Sink = Callable[[bytes, float], None]
"""Takes a piece of a body and the `time.perf_counter()` of its arrival."""

MAX_ERROR_BODY = 65_536
CONNECT_TIMEOUT = 10.0


class RequestError(OpenLLMError):
    """One request failed; `kind` is the column of the error table it is counted in."""

    code = "request_failed"

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Target(Struct, frozen=True):
    """A server: where it is, and the header lines every request to it carries."""

    url: str
    host: str
    port: int
    path: str
    tls: bool
    headers: bytes

    @property
    def loopback(self) -> bool:
        with suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"


class Response(Struct):
    """Status, and the body unless a sink took it."""

    status: int
    body: bytes
    content_type: str


def parse_target(url: str, api_key: str | None = None) -> Target:
    """Take a base URL such as `http://127.0.0.1:5000/v1` apart.

    Raises:
        ConfigurationError: It is no http or https URL, or the key cannot be a header.
    """
    trouble = f"{url!r} is not a URL to benchmark; give one like http://127.0.0.1:5000/v1"
    if not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        raise ConfigurationError(trouble, param="url")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ConfigurationError(f"{trouble} ({exc})", param="url") from exc
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigurationError(trouble, param="url")
    if parts.username is not None:
        raise ConfigurationError(f"put no password in the URL; {trouble}", param="url")
    tls = parts.scheme == "https"
    path = parts.path.rstrip("/")
    lines = [f"Host: {parts.netloc}", f"User-Agent: openllm-bench/{__version__}"]
    if api_key:
        lines.append(f"Authorization: Bearer {_header_value(api_key)}")
    return Target(
        url=f"{parts.scheme}://{parts.netloc}{path}",
        host=host,
        port=port or (443 if tls else 80),
        path=path,
        tls=tls,
        headers="".join(f"{line}\r\n" for line in lines).encode("ascii"),
    )


def _header_value(api_key: str) -> str:
    if not api_key.isascii() or not api_key.isprintable():
        raise ConfigurationError(
            "the API key holds characters that no HTTP header can carry; check how it was copied",
            param="api_key",
        )
    return api_key


class Connection(asyncio.Protocol):
    """One connection. The `on_` methods are called by the parser."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._done: asyncio.Future[Response] | None = None
        self._response = Response(0, b"", "")
        self._sink: Sink | None = None
        self._streams = False
        self._framed = False
        self._now = 0.0
        self.reusable = True

    async def exchange(self, request: bytes, sink: Sink | None = None) -> Response:
        """Send `request` and wait for the end of the reply; a 200 event stream goes to `sink`.

        Raises:
            RequestError: The connection was lost or did not speak HTTP.
        """
        self._response = Response(0, b"", "")
        if self._transport is None or self._transport.is_closing():
            raise RequestError("closed", "the connection was closed by the server")
        self._done = asyncio.get_running_loop().create_future()
        self._sink, self._streams, self._framed = sink, False, False
        self._transport.write(request)
        try:
            return await self._done
        finally:
            self._done = None

    @property
    def answered(self) -> bool:
        """Whether any of the reply to the last request arrived."""
        return self._response.status != 0

    def close(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self.reusable = False
            self._fail("protocol", f"the reply is not HTTP/1.1: {exc}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        if self._response.status and not self._framed:
            self.on_message_complete()  # Without length or chunks the end of the body is this.
        self._fail("closed", str(exc) if exc else "the server closed the connection early")

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.lower()
        if key == b"content-type":
            self._response.content_type = value.decode("latin-1").partition(";")[0].lower()
        elif key in (b"transfer-encoding", b"content-length"):
            self._framed = True

    def on_headers_complete(self) -> None:
        self._response.status = self._parser.get_status_code()
        self._streams = (
            self._response.status == 200 and self._response.content_type == "text/event-stream"
        )

    def on_body(self, body: bytes) -> None:
        if self._streams and self._sink is not None:
            self._sink(body, self._now)
        elif len(self._response.body) < MAX_ERROR_BODY:
            self._response.body += body

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.reusable = False
        if self._done is not None and not self._done.done():
            self._done.set_result(self._response)

    def _fail(self, kind: str, message: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(RequestError(kind, message))


class HttpClient:
    """Sends requests to one server, each on its own connection or on kept ones."""

    def __init__(self, target: Target, *, keep_alive: bool = False) -> None:
        self.target = target
        self._keep_alive = keep_alive
        self._idle: list[Connection] = []
        self._address: tuple[str, int] | None = None
        self._tls = ssl.create_default_context() if target.tls else None
        choice = "keep-alive" if keep_alive else "close"
        self._headers = target.headers + f"Connection: {choice}\r\n".encode("ascii")

    async def get(self, path: str) -> Response:
        """Fetch `path`, which is relative to the base URL."""
        head = f"GET {self.target.path}{path} HTTP/1.1\r\n".encode("ascii")
        return await self._send(head + self._headers + b"\r\n", None)

    async def post(self, path: str, body: bytes, sink: Sink) -> Response:
        """Post JSON to `path`; a 200 event stream goes to `sink` piece by piece."""
        head = (
            f"POST {self.target.path}{path} HTTP/1.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        ).encode("ascii")
        return await self._send(head + self._headers + b"\r\n" + body, sink)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _send(self, request: bytes, sink: Sink | None) -> Response:
        kept = self._kept()
        connection = kept or await self._connect()
        try:
            response = await connection.exchange(request, sink)
        except RequestError:
            connection.close()
            if kept is None or connection.answered:
                raise
            return await self._send(request, sink)  # The server closed it while it was idle.
        except BaseException:
            connection.close()
            raise
        if self._keep_alive and connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return response

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    async def _connect(self) -> Connection:
        if self._address is not None:
            return await self._dial(self._address)
        addresses = await self._resolve()
        for address in addresses[:-1]:
            with suppress(RequestError):
                return await self._dial(address)
        return await self._dial(addresses[-1])

    async def _resolve(self) -> list[tuple[str, int]]:
        loop = asyncio.get_running_loop()
        host, port = self.target.host, self.target.port
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as exc:
            raise RequestError("connect", f"the host name {host!r} is not known: {exc}") from exc
        return [(str(entry[4][0]), port) for entry in found]

    async def _dial(self, address: tuple[str, int]) -> Connection:
        loop = asyncio.get_running_loop()
        name = self.target.host if self._tls else None
        dial = loop.create_connection(Connection, *address, ssl=self._tls, server_hostname=name)
        try:
            _, connection = await asyncio.wait_for(dial, CONNECT_TIMEOUT)
        except ConnectionRefusedError as exc:
            raise RequestError("refused", "the connection was refused") from exc
        except ssl.SSLError as exc:
            reason = getattr(exc, "verify_message", "") or exc.reason or exc
            raise RequestError("tls", f"TLS failed: {reason}") from exc
        except (asyncio.TimeoutError, TimeoutError) as exc:
            raise RequestError("connect", f"no connection in {CONNECT_TIMEOUT:.0f} s") from exc
        except OSError as exc:
            raise RequestError("connect", f"cannot connect: {exc.strerror or exc}") from exc
        self._address = address  # Looked up once: a load must not wait for DNS.
        return connection
