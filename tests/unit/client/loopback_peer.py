"""A small real server on loopback that speaks the native API, and misbehaves when told to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

Answer = Callable[[Request], Awaitable[Response]]


class Peer:
    """Answers each request with the next of `answers`, or as a healthy server would.

    Attributes:
        url: Its address.
        requests: (method, path, headers, JSON body or None) of all requests so far.
        abandoned: Set when a client closes a stream before its end.
    """

    def __init__(self) -> None:
        self.url = ""
        self.answers: deque[Answer] = deque()
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.abandoned = threading.Event()
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST"])])
        config = uvicorn.Config(
            app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    @property
    def bodies(self) -> list[Any]:
        return [body for _, _, _, body in self.requests]

    def start(self) -> None:
        self._thread.start()
        waiting = threading.Event()
        while not self._server.started:
            waiting.wait(0.01)
        host, port = self._server.servers[0].sockets[0].getsockname()
        self.url = f"http://{host}:{port}"

    def reset(self) -> None:
        self.answers.clear()
        self.requests.clear()
        self.abandoned.clear()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)

    async def _answer(self, request: Request) -> Response:
        raw = await request.body()
        body = json.loads(raw) if raw else None
        self.requests.append((request.method, request.url.path, dict(request.headers), body))
        if self.answers:
            return await self.answers.popleft()(request)
        return self._healthy(request.url.path, body)

    def _healthy(self, path: str, body: Any) -> Response:
        path = path.removeprefix("/behind/a/proxy")
        if path == "/chat-sse":
            return self.stream(["Hello", ", ", "world\u2028", "!"], body)
        if path == "/chat":
            return JSONResponse({"message": "Hello, world!", "configuration": body})
        if path == "/complete":
            return JSONResponse({"choices": ["a", ""], "configuration": body})
        if path == "/embed":
            return JSONResponse([[float(len(text)), 0.5] for text in body["input"]])
        if path == "/v1/models":
            return JSONResponse({"object": "list", "data": [{"id": "small"}, {"id": "large"}]})
        if path == "/readyz":
            return JSONResponse({"status": "ready"})
        return error(404, "there is no such route", code="not_found")

    def stream(self, pieces: list[str], configuration: Any, pause: float = 0.0) -> Response:
        """Answer with events; one that no client waits for sets `abandoned`."""

        async def events() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield event({"text": piece})
                await asyncio.sleep(pause)
            yield event({"text": "", "configuration": configuration})

        return _WatchedStream(events(), self.abandoned)


class _WatchedStream(StreamingResponse):
    def __init__(self, content: AsyncIterator[bytes], abandoned: threading.Event) -> None:
        super().__init__(content, media_type="text/event-stream")
        self._abandoned = abandoned

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        finished = False

        async def watched_send(message: Message) -> None:
            nonlocal finished
            await send(message)
            finished = message["type"] == "http.response.body" and not message.get("more_body")

        await super().__call__(scope, receive, watched_send)
        if not finished:
            self._abandoned.set()


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def error(
    status: int, message: str, headers: dict[str, str] | None = None, **info: Any
) -> Response:
    body = {"error": {"message": message, "type": "t", "param": None, "code": None, **info}}
    return JSONResponse(body, status, {"x-request-id": "req-7", **(headers or {})})


def failing(status: int, message: str = "no", **headers: str) -> Answer:
    """Return an answer with our error body; header names are written with underscores."""

    async def answer(_: Request) -> Response:
        return error(
            status, message, {name.replace("_", "-"): value for name, value in headers.items()}
        )

    return answer


def sending(content: bytes, media_type: str = "text/event-stream", status: int = 200) -> Answer:
    """Return an answer of exactly these bytes."""

    async def answer(_: Request) -> Response:
        return Response(content, status, {"x-request-id": "req-7"}, media_type)

    return answer


def breaking_off(content: bytes) -> Answer:
    """Return an answer that sends these bytes and then drops the connection."""

    async def body() -> AsyncIterator[bytes]:
        yield content
        raise ConnectionResetError

    async def answer(_: Request) -> Response:
        return StreamingResponse(body(), media_type="text/event-stream")

    return answer
