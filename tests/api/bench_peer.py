"""A scripted OpenAI-compatible server on loopback, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Peer:
    """How it answers, and what it was asked.

    `fault` is one of: "cut" (closes after the first token), "error" (an error event), "silent"
    (never answers), "plain" (no stream), "garbage" (no HTTP).
    """

    tokens: int = 5
    first: float = 0.03
    gap: float = 0.01
    usage: bool = True
    framing: str = "chunked"
    keep_alive: bool = False
    key: str = ""
    models: tuple[str, ...] = ("scripted",)
    models_status: int = 200
    status: int = 200
    fault: str = ""
    fault_from: int = 0
    url: str = ""
    connections: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
        body = await reader.readexactly(length)
        if self.key and f"authorization: bearer {self.key}\r\n" not in head:
            self._plain(writer, 401, {"error": {"message": "a key is needed"}})
        elif head.startswith("get "):
            listed = [{"id": name, "object": "model"} for name in self.models]
            self._plain(writer, self.models_status, {"object": "list", "data": listed})
        else:
            self.requests.append(json.loads(body))
            await self._answer(writer, self.requests[-1])
        await writer.drain()
        return self.keep_alive and "connection: keep-alive" in head

    async def _answer(self, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        try:
            fault = self.fault if len(self.requests) > self.fault_from else ""
            if self.status != 200:
                self._plain(writer, self.status, {"error": {"message": "no such luck"}})
            elif fault == "plain":
                self._plain(writer, 200, {"choices": []})
            elif fault == "garbage":
                writer.write(b"what is this\r\n\r\n")
            elif fault == "silent":
                await asyncio.sleep(60)
            else:
                await self._stream(writer, asked, fault)
        finally:
            self.in_flight -= 1

    async def _stream(
        self, writer: asyncio.StreamWriter, asked: dict[str, Any], fault: str
    ) -> None:
        framing = "Transfer-Encoding: chunked\r\n" if self.framing == "chunked" else ""
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
            + framing.encode()
            + b"\r\n"
        )
        async for piece in self._events("messages" in asked, fault):
            data = b"data: " + piece + b"\n\n"
            if self.framing == "chunked":
                data = b"%x\r\n%s\r\n" % (len(data), data)
            writer.write(data)
            await writer.drain()
        if self.framing == "chunked" and fault != "cut":
            writer.write(b"0\r\n\r\n")

    async def _events(self, chat: bool, fault: str) -> AsyncIterator[bytes]:
        for number in range(self.tokens):
            await asyncio.sleep(self.gap if number else self.first)
            finish = "length" if number == self.tokens - 1 else None
            content = {"delta": {"content": "w "}} if chat else {"text": "w "}
            yield json.dumps({"choices": [{"finish_reason": finish, **content}]}).encode()
            if fault == "cut":
                return
            if fault == "error":
                yield b'{"error": {"message": "the engine fell over"}}'
                return
        if self.usage:
            counts = {"prompt_tokens": 42, "completion_tokens": self.tokens}
            yield json.dumps({"choices": [], "usage": counts}).encode()
        yield b"[DONE]"

    def _plain(self, writer: asyncio.StreamWriter, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )


@contextmanager
def running(peer: Peer) -> Iterator[Peer]:
    """Serve `peer` on a free port; sets its `url`, which ends in /v1."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    start = asyncio.start_server(peer.serve, "127.0.0.1", 0, backlog=1024)
    server = asyncio.run_coroutine_threadsafe(start, loop).result(10)
    peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield peer
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
