"""Requests straight into an ASGI application: every byte as the test wants it, no URL library."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Message

Headers = Sequence[tuple[bytes, bytes]]
HOST = (b"host", b"localhost:5000")


class Answer:
    """What the application sent."""

    def __init__(self, messages: list[Message]) -> None:
        start = messages[0]
        self.status: int = start["status"]
        self.headers: list[tuple[bytes, bytes]] = list(start["headers"])
        self.chunks = [message.get("body", b"") for message in messages[1:]]
        self.body = b"".join(self.chunks)

    def header(self, name: bytes) -> bytes | None:
        found = [value for key, value in self.headers if key.lower() == name]
        assert len(found) <= 1, f"{name!r} was sent {len(found)} times"
        return found[0] if found else None

    @property
    def error(self) -> dict[str, Any]:
        assert self.header(b"content-type") == b"application/json"
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


async def ask(
    app: ASGIApp,
    path: str = "/",
    *headers: tuple[bytes, bytes],
    method: str = "GET",
    host: Headers = (HOST,),
    body: bytes = b"",
) -> Answer:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": b"",
        "root_path": "",
        "headers": [*host, *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 5000),
    }
    sent: list[Message] = []
    pieces = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not pieces:
            await asyncio.Event().wait()
        return pieces.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return Answer(sent)
