"""Hostile request bodies: each gets a clear refusal, and eight streams beside it go on."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.api.conftest import TEXT, Server, chat

pytestmark = pytest.mark.anyio

LIMIT = 8 << 20
JSON = {"content-type": "application/json"}


def around(value: bytes, field: bytes = b"x") -> bytes:
    """Return a valid chat body with one more field."""
    return b'{"messages":[{"role":"user","content":"hi"}],"%b":%b}' % (field, value)


def deep(depth: int) -> bytes:
    """Return a body that is `depth` levels deep altogether."""
    return around(b"[" * (depth - 1) + b"]" * (depth - 1))


HOSTILE: list[tuple[str, bytes, str]] = [
    ("empty", b"", "it is empty"),
    ("blank", b" \n ", "it is empty"),
    ("not json", b"model=demo", "not JSON"),
    ("single quotes", b"{'a': 1}", "not JSON"),
    ("two documents", b"{}{}", "not JSON"),
    ("truncated", around(b"1")[:-1], "not JSON"),
    ("array", b"[]", "must be a JSON object"),
    ("string", b'"hi"', "must be a JSON object"),
    ("null", b"null", "must be a JSON object"),
    ("bom", b"\xef\xbb\xbf" + around(b"1"), "byte order mark"),
    ("utf-16", around(b"1").decode().encode("utf-16"), "not UTF-8"),
    ("utf-32", around(b"1").decode().encode("utf-32-le"), "not JSON"),
    ("latin-1", around(b'"\xe9"'), "not UTF-8"),
    ("raw ff", around(b'"\xff"'), "not UTF-8"),
    ("overlong", around(b'"\xc0\xaf"'), "not UTF-8"),
    ("raw surrogate", around(b'"\xed\xa0\x80"'), "not UTF-8"),
    ("lone high surrogate", around(b'"\\ud800"'), "not JSON"),
    ("lone low surrogate", around(b'"\\udc00"'), "not JSON"),
    ("surrogate as a name", around(b"1", b"\\ud800"), "not JSON"),
    ("nul", around(b'"\\u0000"', b"user"), "NUL"),
    ("raw nul", around(b'"\x00"', b"user"), "not JSON"),
    ("NaN", around(b"NaN", b"temperature"), "not JSON"),
    ("Infinity", around(b"Infinity", b"temperature"), "not JSON"),
    ("-Infinity", around(b"-Infinity", b"temperature"), "not JSON"),
    ("1e999", around(b"1e999", b"temperature"), "not JSON"),
    ("5000 digits", around(b"9" * 5000, b"seed"), "not JSON"),
    ("300 digits", around(b"9" * 300, b"seed"), "seed must be"),
    ("duplicate name", around(b"1", b"messages"), 'a field twice, "messages"'),
    ("nested duplicate", around(b'{"a":{"b":1,"b":2}}'), 'a field twice, "b"'),
    ("depth 65", deep(65), "deeper than 64"),
    ("depth 100,000", around(b"[" * 100_000 + b"]" * 100_000), "objects and arrays"),
    ("3,000 opened", around(b"[" * 3000), "deeper than 64"),
    ("8 MB opened", b"[" * (LIMIT - 1), "objects and arrays"),
    (
        "1,000,000 names",
        b"{" + b",".join(b'"%d":1' % i for i in range(620_000)) + b"}",
        "100000 strings",
    ),
    (
        "50,000 names",
        around(b"{" + b",".join(b'"%d":1' % i for i in range(50_000)) + b"}"),
        "10000 fields",
    ),
    (
        "9,999 unknown names",
        b"{" + b",".join(b'"k%d":1' % i for i in range(9_999)) + b"}",
        "k0 is not a known field",
    ),
    (
        "9,000 unknown names in a message",
        b'{"messages":[{"role":"user","content":"a",%b}]}'
        % b",".join(b'"k%d":1' % i for i in range(9_000)),
        "messages[0].k0",
    ),
    ("a million numbers", around(b"[" + b"1," * 1_000_000 + b"1]"), "500000 values"),
    ("half a million numbers", around(b"[" + b"1234," * 499_000 + b"1]", b"stop"), "stop"),
    ("8 MB of commas", around(b"[" + b"," * (LIMIT - 100) + b"]"), "500000 values"),
    ("8 MB of colons", b":" * LIMIT, "not JSON"),
    (
        "half a million faults",
        b'{"messages":[' + b"1," * 499_000 + b"1]}",
        "messages",
    ),
    ("8 MB of newlines", around(b'"' + b"\\n" * (4 << 20) + b'"')[:LIMIT], "escaped"),
    (
        "8 MB of backslashes",
        around(b'"' + b"\\\\" * ((LIMIT - 100) // 2) + b'"', b"user"),
        "escaped",
    ),
    ("8 MB of quotes", around(b'"' + b'\\"' * ((LIMIT - 100) // 2) + b'"', b"user"), "escaped"),
    ("a million quotes", around(b'"' + b'\\"' * 999_999 + b'"', b"user"), "user"),
    ("a million pairs", around(b'"' + b"\\\\" * 499_999 + b'"', b"user"), "user"),
    ("8 MB of spaces", b" " * LIMIT, "it is empty"),
]


@pytest.fixture
async def neighbours(server: Server) -> AsyncIterator[None]:
    """Eight streams that must go on undisturbed."""

    async def one(sdk: Any) -> str:
        stream = await sdk.chat.completions.create(
            **{**chat("slow", max_tokens=60), "model": "slow"}, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async with server.sdk() as sdk:
        streams = [asyncio.create_task(one(sdk)) for _ in range(8)]
        yield
        assert await asyncio.gather(*streams) == ["word " * 30] * 8


@pytest.mark.reliability("F-16", "F-17", "S-16")
@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings"])
async def test_hostile_bodies_beside_good_streams(
    server: Server, http: Any, neighbours: None, path: str
) -> None:
    for name, body, says in HOSTILE:
        for _ in range(5):  # Other work on the machine only ever adds.
            started = time.monotonic()
            reply = await http.post(f"/v1/{path}", content=body, headers=JSON)
            if (took := time.monotonic() - started) < 1:
                break
        assert took < 1, name
        assert reply.status_code == 400, name
        error = reply.json()["error"]
        assert error["type"] == "invalid_request_error", name
        assert len(error["message"]) < 400, name
        if path == "chat/completions":
            assert says in error["message"], name


@pytest.mark.reliability("F-16")
async def test_depth_64_is_parsed(http: Any) -> None:
    reply = await http.post("/v1/chat/completions", content=deep(64), headers=JSON)
    assert reply.json()["error"]["message"].startswith("x is not a known field")


@pytest.mark.reliability("F-17")
async def test_an_escaped_backslash_is_no_escape(http: Any) -> None:
    for text in ("\\u0000", '"name": "x", {[', "\\", '\\"', "\u0001", "é\u2028😀"):
        body = chat("hi", user=text)
        reply = await http.post("/v1/chat/completions", json=body)
        assert reply.json()["choices"][0]["message"]["content"] == TEXT


@pytest.mark.reliability("F-16")
async def test_the_event_loop_is_not_held_up(server: Server, http: Any) -> None:
    """The longest pause of the server's loop while each body is handled.

    It is told in this process's own time: what others do on the machine does not lengthen it.
    """
    stop = threading.Event()

    async def watch() -> float:
        longest = 0.0
        while not stop.is_set():
            before = time.process_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.process_time() - before)
        return longest

    async def longest(body: bytes) -> float:
        stop.clear()
        watching = asyncio.run_coroutine_threadsafe(watch(), server.loop)
        await http.post("/v1/chat/completions", content=body, headers=JSON)
        stop.set()
        return watching.result()

    for name, body, _ in HOSTILE:
        # The least of some tries: other work in this process only ever adds.
        pauses: list[float] = []
        while not pauses or (min(pauses) > 0.05 and len(pauses) < 20):
            pauses.append(await longest(body))
        assert min(pauses) <= 0.05, (name, pauses)


@pytest.mark.reliability("F-16")
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_not_read(server: Server, chunked: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (LIMIT + 1)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\n" + framing + b"\r\n\r\n"
    )
    if chunked:
        piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
        for _ in range(LIMIT // 65536 + 1):
            writer.write(piece)
            await writer.drain()
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close\r\n" in head.lower()
    body = json.loads(await asyncio.wait_for(reader.read(), 20))
    assert body["error"]["code"] == "request_too_large"
    writer.close()


@pytest.mark.reliability("F-16")
async def test_a_body_at_the_limit_is_read(http: Any) -> None:
    body = json.dumps(chat("x")).encode()
    body = body[:-1] + b" " * (LIMIT - len(body)) + b"}"
    assert len(body) == LIMIT
    reply = await http.post("/v1/chat/completions", content=body, headers=JSON)
    assert reply.json()["choices"][0]["message"]["content"] == TEXT
    reply = await http.post("/v1/chat/completions", content=body + b" ", headers=JSON)
    assert reply.status_code == 413


@pytest.mark.reliability("S-33")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "text/plain; application/json"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/jsonp"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/vnd.bentoml+pickle"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings"])
async def test_other_content_types(http: Any, path: str, headers: dict[str, str]) -> None:
    body = json.dumps(chat()).encode()
    reply = await http.post(f"/v1/{path}", content=body, headers=headers)
    assert reply.status_code == 415
    assert reply.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize(
    "kind", ["application/json; charset=UTF-8", 'Application/JSON;charset="utf-8"']
)
async def test_content_types_that_are_json(http: Any, kind: str) -> None:
    body = json.dumps(chat()).encode()
    reply = await http.post("/v1/chat/completions", content=body, headers={"content-type": kind})
    assert reply.status_code == 200


async def test_a_body_that_stops_coming(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllm.server.body.IDLE_TIMEOUT", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert head.startswith(b"HTTP/1.1 408 ")
    assert await asyncio.wait_for(reader.read(), 20)
    writer.close()
