"""uvicorn's HTTP protocol, with our error body and a bound on the header block.

What is wrong with a request below ASGI never reaches the app, so it is answered here. Knows nothing
of routes or keys.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, cast

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from openllm.server.errors import error_body
from openllm.server.request_id import new_request_id

MAX_HEADER_BYTES = 64 * 1024
"""Request line and headers of one request, and the trailers after its body, each at most this."""


class HeaderBlockTooLargeError(Exception):
    """Ends the parsing of a request whose headers do not end."""


class HttpProtocol(HttpToolsProtocol):
    """Use as `uvicorn.Config(http=HttpProtocol)`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._block_bytes = 0
        self._unparsed_bytes = 0
        self._in_headers = True
        self._ignores_upgrade = False
        self._reading = memoryview(b"")
        self._read_again: Sequence[memoryview] = ()

    def data_received(self, data: bytes) -> None:
        # The parser reports a header only when it ends, so one that does not end is counted here.
        self._unparsed_bytes += len(data)
        unread = [memoryview(data)]
        while unread and not self.transport.is_closing():
            self._reading = unread.pop()
            super().data_received(cast(bytes, self._reading))
            unread += self._read_again
            self._read_again = ()
        if self._unparsed_bytes > MAX_HEADER_BYTES:
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._block_bytes = self._unparsed_bytes = 0
        self._in_headers = True
        # Closing waits until a client has read what it was sent; one that does not is cut off.
        cast(Any, self.scope)["extensions"] = {"openllm.abort": self.transport.abort}

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        # A trailer would be added to the headers of a request that was already admitted.
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._block_bytes = self._unparsed_bytes = 0
        asked = any(name == b"upgrade" for name, _ in self.headers)
        self._ignores_upgrade = (
            asked and self.parser.should_upgrade() and not self._should_upgrade()
        )
        if not self._ignores_upgrade:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        if not self._ignores_upgrade:
            super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Read the request once more without `Upgrade`; called when the parser raised for it.

        Of a request that asks for another protocol the parser reads no body: it would be lost, or
        be taken for the next request. Java's client asks so for HTTP/2.
        """
        raised = cast(HttpParserUpgrade, sys.exc_info()[1])
        line = (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = [header for header in self.headers if header[0] != b"upgrade"]
        head = [b"%b %b HTTP/%b" % line, *(b"%b: %b" % header for header in kept), b"\r\n"]
        after = self._reading[raised.args[0] :]
        self._read_again = (after, memoryview(b"\r\n".join(head)))  # The last one comes first.
        # One that has read `Connection: close` reads nothing more.
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP request, or too large a one, and close the connection."""
        if self.transport.is_closing():
            return
        if self._may_answer():
            self.transport.write(self._refusal())
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _may_answer(self) -> bool:
        """Whether bytes sent now are an answer of their own, not part of one that has begun."""
        if self.pipeline:
            return False
        cycle = self.cycle
        return cycle is None or cycle.response_complete or not cycle.response_started

    def _count(self, size: int) -> None:
        self._block_bytes += size
        if self._block_bytes > MAX_HEADER_BYTES:
            raise HeaderBlockTooLargeError

    def _refusal(self) -> bytes:
        too_large = max(self._block_bytes, self._unparsed_bytes) > MAX_HEADER_BYTES
        status = 431 if too_large else 400
        message = (
            f"the request line and headers are over {MAX_HEADER_BYTES} bytes; send less"
            if too_large
            else "this is no valid HTTP/1.1 request"
        )
        body = error_body(status, message)
        head = (
            b"content-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\nx-request-id: %b\r\n\r\n"
        )
        return STATUS_LINE[status] + head % (len(body), new_request_id().encode()) + body
