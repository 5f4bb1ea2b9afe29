"""Streams on the wire: framing, errors, silence, and clients that leave or do not read."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import openai
import psutil
import pytest

from openllm.config.server import ServerSettings
from openllm.errors import (
    DeadlineError,
    EngineCrashedError,
    EngineError,
    EngineStartError,
    EngineUnavailableError,
    InvalidRequestError,
    OutOfMemoryError,
    OverloadedError,
    UnsupportedError,
)
from openllm.server import sse
from openllm.types import CompletionChunk, Usage
from tests.api.conftest import TEXT, Server, StubFleet, chat, running
from tests.waiting import until

pytestmark = pytest.mark.anyio

END = CompletionChunk(0, "", finish_reason="stop", usage=Usage(1, 1))
FREED = 5.0
"""Seconds until the engine is free of who left: one is promised, on a machine that is not loaded;
by itself, "slow" would end after ten."""


async def connect(
    port: int, body: dict[str, Any], path: str = "/v1/chat/completions"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request over a connection of its own."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + data)
    await writer.drain()
    return reader, writer


async def exchange(port: int, body: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return the head and the body, without its chunked framing, of an answer."""
    reader, writer = await connect(port, body)
    head = await reader.readuntil(b"\r\n\r\n")
    data = await reader.read()
    writer.close()
    if b"transfer-encoding: chunked" not in head:
        return head, data
    pieces = []
    while data:
        size, _, rest = data.partition(b"\r\n")
        pieces.append(rest[: int(size, 16)])
        data = rest[int(size, 16) + 2 :]
    return head, b"".join(pieces)


def drop(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    """Close a connection by FIN or by RST."""
    sock = writer.get_extra_info("socket")
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


def open_connections(port: int) -> list[Any]:
    """Return the server's ends of its connections, which are in this process too."""
    connections = psutil.Process().net_connections("tcp")
    return [each for each in connections if each.laddr.port == port and each.status != "LISTEN"]


@pytest.mark.reliability("C-07")
@pytest.mark.parametrize("usage", [False, True])
async def test_framing(server: Server, usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if usage else {}
    head, body = await exchange(server.port, chat("odd", stream=True, **options))
    for line in (
        b"content-type: text/event-stream; charset=utf-8",
        b"cache-control: no-cache",
        b"x-accel-buffering: no",
    ):
        assert line + b"\r\n" in head
    assert b"\r" not in body
    assert body.endswith(b"\n\ndata: [DONE]\n\n")
    # Cut where any client may cut, U+2028 and U+0085 included: no event breaks.
    lines = body.decode().splitlines()
    assert lines[1::2] == [""] * (len(lines) // 2)
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2:2]]
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events if e["choices"])
    assert text == 'tab\t \u2028line\u2029 \u0085 \r\n é日本👩‍👩‍👧‍👦\ufffd"\\'
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert ("usage" in events[0]) == usage
    last = events[-2 if usage else -1]["choices"]
    assert last == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]


@pytest.mark.reliability("C-04")
async def test_each_event_is_valid_utf8(server: Server) -> None:
    _, body = await exchange(server.port, chat("odd", stream=True))
    for event in body.split(b"\n\n"):
        event.decode()


@pytest.mark.reliability("C-07")
async def test_an_event_is_sent_when_its_chunk_is_made() -> None:
    read = threading.Semaphore(0)

    async def produce() -> AsyncIterator[CompletionChunk]:
        for _ in range(3):
            yield CompletionChunk(0, "x")
            # No chunk is made before the client has the one before it.
            assert await asyncio.to_thread(read.acquire, timeout=20)
        yield END

    with running(StubFleet(produce)) as server:
        async with server.sdk() as sdk:
            stream = await sdk.chat.completions.create(**chat(), stream=True)
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    read.release()


ERRORS: list[tuple[Exception, int, str, str, str | None]] = [
    (InvalidRequestError("bad", param="n"), 400, "invalid_request_error", "invalid_value", None),
    (UnsupportedError("no"), 400, "invalid_request_error", "unsupported_parameter", None),
    (OverloadedError("full", retry_after=2.1), 429, "rate_limit_error", "overloaded", "3"),
    (OverloadedError("full", retry_after=900), 429, "rate_limit_error", "overloaded", "60"),
    (EngineUnavailableError("x"), 503, "server_error", "model_unavailable", "1"),
    (EngineCrashedError("x", retry_after=0.2), 503, "server_error", "engine_crashed", "1"),
    (EngineStartError("x"), 503, "server_error", "engine_start_failed", "1"),
    (OutOfMemoryError("x"), 503, "server_error", "out_of_memory", "1"),
    (DeadlineError("x"), 504, "server_error", "timeout", None),
    (EngineError("secret"), 500, "server_error", "internal_error", None),
    (RuntimeError("secret"), 500, "server_error", "internal_error", None),
]


@pytest.mark.reliability("F-05")
@pytest.mark.parametrize(("error", "status", "kind", "code", "retry_after"), ERRORS)
async def test_error_before_and_after_the_first_chunk(
    error: Exception, status: int, kind: str, code: str, retry_after: str | None
) -> None:
    begun = False

    async def produce() -> AsyncIterator[CompletionChunk]:
        if begun:
            yield CompletionChunk(0, "text")
        raise error

    fleet = StubFleet(produce)
    with running(fleet) as server:
        for stream in (False, True):
            head, body = await exchange(server.port, chat(stream=stream))
            assert head.startswith(b"HTTP/1.1 %d " % status)
            got = json.loads(body)["error"]
            assert (got["type"], got["code"]) == (kind, code)
            assert "secret" not in got["message"]
            sent = re.search(rb"retry-after: (\d+)\r\n", head)
            assert (sent and sent[1].decode()) == retry_after
        begun = True
        head, body = await exchange(server.port, chat(stream=False))
        assert head.startswith(b"HTTP/1.1 %d " % status)
        head, body = await exchange(server.port, chat(stream=True))
        assert head.startswith(b"HTTP/1.1 200 ")
        *events, last, rest = body.split(b"\n\n")
        assert rest == b""
        got = json.loads(last.removeprefix(b"data: "))
        assert set(got) == {"error"}
        assert (got["error"]["type"], got["error"]["code"]) == (kind, code)
        assert all(b'"finish_reason":null' in event for event in events)
        async with server.sdk() as sdk:
            chunks = aiter(await sdk.chat.completions.create(**chat(), stream=True))
            texts = [(await anext(chunks)).choices[0].delta.content for _ in range(2)]
            with pytest.raises(openai.APIError) as caught:
                await anext(chunks)
        assert texts == ["", "text"]
        assert caught.value.code == code
    assert fleet.open == 0


@pytest.mark.reliability("C-09")
@pytest.mark.parametrize("chunks", [[], [CompletionChunk(0, "half")]])
async def test_a_stream_without_an_end_is_an_error(chunks: list[CompletionChunk]) -> None:
    async def produce() -> AsyncIterator[CompletionChunk]:
        for chunk in chunks:
            yield chunk

    with running(StubFleet(produce)) as server:
        head, body = await exchange(server.port, chat())
        assert head.startswith(b"HTTP/1.1 500 ")
        head, body = await exchange(server.port, chat(stream=True))
        assert b"[DONE]" not in body
        assert b'"code":"internal_error"' in body


async def test_silence_is_broken_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PING_INTERVAL", 0.1)
    heard = {"one": threading.Event(), "two": threading.Event()}

    async def produce() -> AsyncIterator[CompletionChunk]:
        for text, event in heard.items():
            assert await asyncio.to_thread(event.wait, 20)
            yield CompletionChunk(0, text)
        yield END

    with running(StubFleet(produce)) as server:
        reader, writer = await connect(server.port, chat(stream=True))
        for text, event in heard.items():
            for _ in range(2):
                await reader.readuntil(b": ping\n\n")
            event.set()
            said = await reader.readuntil(text.encode())
            assert (b'"role"' in said) == (text == "one")
        assert b"[DONE]" in await reader.read()
        writer.close()
        threading.Timer(0.5, heard["one"].set).start()
        heard["one"].clear()
        async with server.sdk() as sdk:
            stream = await sdk.chat.completions.create(**chat(), stream=True)
            text = "".join([k.choices[0].delta.content or "" async for k in stream])
        assert text == "onetwo"


async def test_an_error_after_comments_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PING_INTERVAL", 0.1)
    heard = threading.Event()

    async def produce() -> AsyncIterator[CompletionChunk]:
        assert await asyncio.to_thread(heard.wait, 20)
        raise EngineCrashedError("gone")
        yield END

    with running(StubFleet(produce)) as server:
        reader, writer = await connect(server.port, chat(stream=True))
        said = await reader.readuntil(b": ping\n\n")
        heard.set()
        said += await reader.read()
        writer.close()
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b'"code":"engine_crashed"' in said
    assert b"[DONE]" not in said


@pytest.mark.parametrize("stream", [False, True])
async def test_time_limit_of_a_request(stream: bool) -> None:
    begun = False

    async def produce() -> AsyncIterator[CompletionChunk]:
        if begun:
            yield CompletionChunk(0, "x")
        await asyncio.sleep(60)

    fleet = StubFleet(produce)
    with running(fleet, ServerSettings(timeout=0.3)) as server:
        head, body = await exchange(server.port, chat(stream=stream))
        assert head.startswith(b"HTTP/1.1 504 ")
        await until(lambda: fleet.open == 0)
        begun = True
        server.front.apply(ServerSettings(timeout=3))  # Time enough for the first chunk.
        head, body = await exchange(server.port, chat(stream=stream))
        assert head.startswith(b"HTTP/1.1 200 " if stream else b"HTTP/1.1 504 ")
        assert b'"code":"timeout"' in body
        await until(lambda: fleet.open == 0)


@pytest.mark.reliability("F-01")
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    ("fields", "after"),
    [
        ({"model": "reading", "stream": True}, b""),
        ({"model": "reading"}, b""),
        ({"model": "slow", "stream": True}, b"[role]"),
        ({"model": "slow", "stream": True, "n": 4}, b"[text]"),
        ({"model": "slow", "stream": True}, b"[50]"),
        ({"model": "slow"}, b""),
        ({"model": "slow", "n": 4}, b""),
    ],
)
async def test_a_client_that_leaves_frees_the_engine(
    server: Server, fields: dict[str, Any], after: bytes, reset: bool
) -> None:
    engine = server.fleet.engines[fields["model"]]
    reader, writer = await connect(server.port, {**chat("slow"), **fields})
    await until(lambda: engine.running + engine.waiting)
    if after:
        await reader.readuntil(b'"role"')
    for _ in range({b"[text]": 1, b"[50]": 50}.get(after, 0)):
        await reader.readuntil(b'"content":"word')
    drop(writer, reset=reset)
    await until(lambda: not engine.running + engine.waiting, FREED)


@pytest.mark.reliability("F-01")
async def test_clients_that_leave_while_they_are_queued(server: Server) -> None:
    engine = server.fleet.engines["slow"]
    body = {**chat("slow"), "model": "slow", "stream": True}
    connections = [await connect(server.port, body) for _ in range(24)]
    await until(lambda: (engine.running, engine.waiting) == (16, 8))
    for _, writer in connections[16:]:
        drop(writer, reset=True)
    await until(lambda: (engine.running, engine.waiting) == (16, 0), FREED)
    for _, writer in connections[:16]:
        drop(writer, reset=False)
    await until(lambda: not engine.running, FREED)


@pytest.mark.reliability("F-01")
async def test_embeddings_are_cancelled_too() -> None:
    async def produce() -> AsyncIterator[CompletionChunk]:
        await asyncio.sleep(60)
        yield END

    fleet = StubFleet(produce)
    with running(fleet) as server:
        _, writer = await connect(server.port, {"input": ["a"] * 100}, "/v1/embeddings")
        await until(lambda: fleet.open == 1)
        drop(writer, reset=True)
        await until(lambda: fleet.open == 0)


@pytest.mark.reliability("F-01")
async def test_many_random_aborts_leak_nothing(server: Server) -> None:
    rng = random.Random(1)
    engine = server.fleet.engines["slow"]

    async def one() -> None:
        body = {
            **chat("slow"),
            "model": "slow",
            "stream": rng.random() < 0.7,
            "n": rng.choice([1, 3]),
        }
        _, writer = await connect(server.port, body)
        await asyncio.sleep(rng.random() * 0.1)
        drop(writer, reset=rng.random() < 0.5)

    for _ in range(10):
        await asyncio.gather(*(one() for _ in range(20)))
    await until(lambda: not engine.running + engine.waiting, FREED)
    _, body = await exchange(server.port, chat())
    assert json.loads(body)["choices"][0]["message"]["content"] == TEXT


async def test_a_client_that_does_not_read_is_dropped() -> None:
    begun = threading.Event()

    async def produce() -> AsyncIterator[CompletionChunk]:
        begun.set()
        while True:
            yield CompletionChunk(0, "x" * 65536)
            await asyncio.sleep(0)

    fleet = StubFleet(produce)
    with running(fleet, ServerSettings(write_timeout=0.5)) as server:
        started = time.monotonic()
        _, writer = await connect(server.port, chat(stream=True))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(begun.is_set)
        await until(lambda: fleet.open == 0)
        assert time.monotonic() - started >= 0.5
        # Not only given up: with what is unsent, the connection would stay for as long as it likes.
        await until(lambda: not open_connections(server.port))
        writer.transport.abort()


async def test_not_ready() -> None:
    fleet = StubFleet(lambda: None)  # type: ignore[arg-type,return-value]
    fleet.state = "loading"
    with running(fleet) as server:
        async with server.http() as http:
            reply = await http.get("/readyz")
            assert (await http.get("/livez")).status_code == 200
            assert (await http.get("/v1/models")).status_code == 200
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) >= 1
    body = reply.json()
    assert body["models"] == [{"name": "stub", "state": "loading"}]
    assert set(body["error"]) == {"message", "type", "param", "code"}
