"""The answer on its way out: one id, one set of headers, one shape of error.

Decides when the status is known. A chunk of a good answer costs one plain call more than without.
"""

from __future__ import annotations

from collections.abc import Awaitable
from http import HTTPStatus

import orjson
from starlette.types import Message, Scope, Send

from openllm.server.errors import RawHeaders, error_body

# An error body that our handlers wrote is far smaller; more than this is not kept.
_MAX_ERROR_BODY = 64 * 1024
_ERROR_FIELDS = {"message", "type", "param", "code"}
_ABOUT_BODY = (b"content-type", b"content-length", b"content-encoding", b"transfer-encoding")
_RETRY = (b"retry-after", b"1")


class Reply:
    """The `send` an application gets. Errors without our body are given one.

    Attributes:
        status: What was sent, 0 before anything was.
    """

    __slots__ = ("_body", "_headers", "_held", "_passing", "_scope", "_send", "status")

    def __init__(self, scope: Scope, send: Send, headers: RawHeaders) -> None:
        """`headers` go with every answer, beside the request id."""
        self._scope = scope
        self._send = send
        request_id = scope["state"]["request_id"].encode("ascii")
        self._headers = [
            (b"x-request-id", request_id),
            (b"x-content-type-options", b"nosniff"),
            *headers,
        ]
        self._held: Message | None = None
        self._body = bytearray()
        self._passing = False
        self.status = 0

    def __call__(self, message: Message) -> Awaitable[None]:
        if self._passing:
            return self._send(message)
        return self._decide(message)

    async def refuse(self, status: int, message: str, headers: RawHeaders = ()) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.status:
            return
        body = error_body(status, message)
        if status in (429, 503) and not any(name == b"retry-after" for name, _ in headers):
            headers = (*headers, _RETRY)
        await self._answer(status, [*headers, (b"content-type", b"application/json")], body)

    async def permit(self, headers: RawHeaders) -> None:
        """Answer a browser's preflight with these headers."""
        self._headers += headers
        await self._answer(204, (), b"")

    async def _decide(self, message: Message) -> None:
        if self._held is not None:
            await self._collect(message)
        elif message["type"] == "http.response.start" and message["status"] >= 400:
            self._held = message
        elif message["type"] == "http.response.start":
            self._passing = True
            self.status = message["status"]
            await self._send({**message, "headers": self._with_ours(message.get("headers", ()))})
        else:
            await self._send(message)

    async def _collect(self, message: Message) -> None:
        """Keep the body of an error until it is known whose it is."""
        if message["type"] != "http.response.body":
            return
        if len(self._body) <= _MAX_ERROR_BODY:
            self._body += message.get("body", b"")
        if self._held is not None and not message.get("more_body", False) and not self.status:
            await self._answer_held(self._held)

    async def _answer_held(self, start: Message) -> None:
        status = 400 if start["status"] == 422 else start["status"]
        headers = list(start.get("headers", ()))
        if _is_ours(self._body):
            await self._answer(status, headers, bytes(self._body))
        else:
            kept = [header for header in headers if header[0].lower() not in _ABOUT_BODY]
            await self.refuse(status, self._describe(status), kept)

    async def _answer(self, status: int, headers: RawHeaders, body: bytes) -> None:
        self.status = status
        own = [header for header in headers if header[0].lower() != b"content-length"]
        if status != HTTPStatus.NO_CONTENT:
            own.append((b"content-length", b"%d" % len(body)))
        start = {"type": "http.response.start", "status": status, "headers": self._with_ours(own)}
        await self._send(start)
        # The answer to HEAD says how long the body would be, and has none.
        shown = b"" if self._scope["method"] == "HEAD" else body
        await self._send({"type": "http.response.body", "body": shown})

    def _with_ours(self, headers: RawHeaders) -> list[tuple[bytes, bytes]]:
        """Only the guard speaks of origins: an inner `access-control-*` is dropped."""
        ours = {name for name, _ in self._headers if name != b"vary"}
        kept = [
            (name, value)
            for name, value in headers
            if (lower := name.lower()) not in ours and not lower.startswith(b"access-control-")
        ]
        return [*kept, *self._headers]

    def _describe(self, status: int) -> str:
        """Say in our words what a framework refused; its own may tell of our insides."""
        what = f"{self._scope['method']} {self._scope['path'][:200]}"
        if status == HTTPStatus.NOT_FOUND:
            return f"there is no route for {what}; /docs lists all routes"
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            return f"{what} is not allowed; the allow header lists the methods that are"
        try:
            return f"{HTTPStatus(status).phrase.lower()}: {what}"
        except ValueError:
            return f"{what} failed with status {status}"


def _is_ours(body: bytes | bytearray) -> bool:
    try:
        return set(orjson.loads(body)["error"]) == _ERROR_FIELDS
    except (ValueError, TypeError, KeyError):
        return False
