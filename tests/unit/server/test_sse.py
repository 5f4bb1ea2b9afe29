"""The event stream: when headers go out, and how comments and events keep out of each other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from openllm.server import sse
from openllm.server.sse import EventStream, SlowClientError

pytestmark = pytest.mark.anyio


class Client:
    """An ASGI `send` that can be made to stall."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def __call__(self, message: Any) -> None:
        await self.reads.wait()
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(each.get("body", b"") for each in self.messages)


async def test_headers_go_with_the_first_event() -> None:
    client = Client()
    stream = EventStream(client, 30)
    assert not stream.started
    assert client.messages == []
    await stream.write(b"data: 1\n\n")
    await stream.end()
    assert [each["type"] for each in client.messages] == [
        "http.response.start",
        "http.response.body",
        "http.response.body",
    ]
    assert [each.get("more_body") for each in client.messages] == [None, True, False]


async def test_a_comment_waits_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    stream = EventStream(client, 30)
    await stream.check()
    assert client.messages == []
    monkeypatch.setattr(sse, "PING_INTERVAL", 0)
    await stream.check()
    assert client.body == b": ping\n\n"


async def test_an_event_waits_for_a_comment_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PING_INTERVAL", 0)
    client = Client()
    client.reads.clear()
    stream = EventStream(client, 30)
    ping = asyncio.create_task(stream.check())
    await asyncio.sleep(0)
    event = asyncio.create_task(stream.write(b"data: 1\n\n"))
    await asyncio.sleep(0.01)
    client.reads.set()
    await asyncio.gather(ping, event)
    assert client.body == b": ping\n\ndata: 1\n\n"
    assert sum(each["type"] == "http.response.start" for each in client.messages) == 1


async def test_a_write_that_takes_too_long() -> None:
    client = Client()
    client.reads.clear()
    stream = EventStream(client, 0.5)
    write = asyncio.create_task(stream.write(b"data: 1\n\n"))
    await asyncio.sleep(0)
    await stream.check()  # Not yet.
    await asyncio.sleep(0.6)
    with pytest.raises(SlowClientError):
        await stream.check()
    with pytest.raises(SlowClientError):
        await stream.fail(b"{}")
    write.cancel()


async def test_a_write_that_begins_between_checks_is_seen_in_time() -> None:
    stream = EventStream(Client(), 0.05)
    loop = asyncio.get_running_loop()
    assert stream.due() <= loop.time() + 0.06
