"""Streamed replies: pieces as they come, closed early, cut short, or failing half-way."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

import open_llm_client
from tests.unit.client.loopback_peer import Peer, breaking_off, event, failing, sending

Call = Callable[..., Any]

MANY = [f"{number} " for number in range(2000)]


def slow(peer: Peer, pieces: list[str] = MANY, pause: float = 0.02) -> Callable[..., Any]:
    async def answer(_: Request) -> Response:
        return peer.stream(pieces, {"top_k": 1}, pause)

    return answer


def test_pieces_join_to_the_reply(call: Call, peer: Peer) -> None:
    pieces = call("chat", "Hi", stream=True, top_k=3)
    assert pieces == ["Hello", ", ", "world\u2028", "!"]
    assert [(path, body) for _, path, _, body in peer.requests] == [
        ("/chat-sse", {"prompt": "Hi", "top_k": 3})
    ]


def test_the_stream_knows_message_and_configuration(peer: Peer) -> None:
    with open_llm_client.create(peer.url) as client, client.chat("Hi", stream=True) as stream:
        assert (stream.message, stream.configuration) == ("", {})
        assert next(stream) == stream.message == "Hello"
        assert "".join(["Hello", *stream]) == stream.message == "Hello, world\u2028!"
        assert stream.configuration == {"prompt": "Hi"}


def test_pieces_arrive_while_the_server_still_works(peer: Peer) -> None:
    peer.answers.append(slow(peer, ["first", "second"], pause=30.0))
    started = time.monotonic()
    with open_llm_client.create(peer.url) as client, client.chat("Hi", stream=True) as stream:
        assert next(stream) == "first"
    assert time.monotonic() - started < 20


def test_closing_stops_the_server(peer: Peer) -> None:
    peer.answers.append(slow(peer))
    with open_llm_client.create(peer.url) as client, client.chat("Hi", stream=True) as stream:
        next(stream)
        stream.close()
        assert peer.abandoned.wait(20)
        assert list(stream) == []
        assert client.chat("Hi").message == "Hello, world!"


def test_dropping_a_stream_stops_the_server(peer: Peer) -> None:
    peer.answers.append(slow(peer))
    with open_llm_client.create(peer.url) as client:
        for piece in client.chat("Hi", stream=True):
            assert piece == "0 "
            break
        gc.collect()
        assert peer.abandoned.wait(20)


@pytest.mark.anyio
async def test_closing_an_async_stream_stops_the_server(peer: Peer) -> None:
    for keeps_connections in (True, False):
        peer.abandoned.clear()
        peer.answers.append(slow(peer))
        blocking, pooled = open_llm_client.create(peer.url), open_llm_client.create_async(peer.url)
        chat = pooled.chat if keeps_connections else blocking.async_chat
        async with pooled, chat("Hi", stream=True) as stream:
            assert await anext(stream) == "0 "
            await stream.aclose()
            assert await asyncio.to_thread(peer.abandoned.wait, 20)
        blocking.close()


@pytest.mark.anyio
async def test_dropping_an_async_stream_stops_the_server(peer: Peer) -> None:
    peer.answers.append(slow(peer))
    with open_llm_client.create(peer.url) as client:
        async for piece in client.async_chat("Hi", stream=True):
            assert piece == "0 "
            break
        assert await asyncio.to_thread(peer.abandoned.wait, 20)


@pytest.mark.anyio
async def test_cancelling_a_task_stops_the_server(peer: Peer) -> None:
    peer.answers.append(slow(peer))
    first = asyncio.Event()

    async def talk() -> None:
        async with open_llm_client.create_async(peer.url) as client:
            async for _ in client.chat("Hi", stream=True):
                first.set()

    task = asyncio.create_task(talk())
    await first.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(peer.abandoned.wait, 20)


def test_a_stream_without_its_end_is_an_error(call: Call, peer: Peer) -> None:
    peer.answers.append(sending(event({"text": "Hel"})))
    with pytest.raises(open_llm_client.StreamInterrupted):
        call("chat", "Hi", stream=True)
    assert len(peer.requests) == 1


def test_a_connection_dropped_half_way_is_not_tried_again(call: Call, peer: Peer) -> None:
    peer.answers.append(breaking_off(event({"text": "Hel"})))
    with pytest.raises(open_llm_client.StreamInterrupted) as caught:
        call("chat", "Hi", stream=True)
    assert not caught.value.retryable
    assert len(peer.requests) == 1


def test_an_error_event_carries_what_the_server_says(call: Call, peer: Peer) -> None:
    trouble = {"message": "it died", "type": "server_error", "param": None, "code": "crashed"}
    peer.answers.append(sending(event({"text": "Hel"}) + event({"error": trouble})))
    with pytest.raises(open_llm_client.ServerError, match="it died") as caught:
        call("chat", "Hi", stream=True)
    found = caught.value
    assert (found.status, found.code, found.request_id) == (None, "crashed", "req-7")
    assert not found.retryable
    assert len(peer.requests) == 1


def test_what_arrived_before_an_error_is_kept(peer: Peer) -> None:
    peer.answers.append(sending(event({"text": "Hel"}) + event({"error": {"message": "no"}})))
    with open_llm_client.create(peer.url) as client:
        stream = client.chat("Hi", stream=True)
        assert next(stream) == "Hel"
        with pytest.raises(open_llm_client.ServerError):
            next(stream)
        assert stream.message == "Hel"


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"<html>welcome</html>", "text/html"),
        (b"data: no JSON\n\n", "text/event-stream"),
        (b'data: {"text": 5}\n\n', "text/event-stream"),
    ],
)
def test_what_is_no_stream_of_ours_is_named(
    call: Call, peer: Peer, content: bytes, media_type: str
) -> None:
    peer.answers.append(sending(content, media_type))
    with pytest.raises(open_llm_client.UnexpectedAnswer, match="/chat-sse"):
        call("chat", "Hi", stream=True)


def test_comments_and_split_events_are_read(call: Call, peer: Peer) -> None:
    whole = b": ping\n\n" + event({"text": "H\u00e4"}) + event({"configuration": {}})

    async def answer(_: Request) -> Response:
        from starlette.responses import StreamingResponse

        bytewise = (whole[place : place + 1] for place in range(len(whole)))
        return StreamingResponse(bytewise, media_type="text/event-stream")

    peer.answers.append(answer)
    assert call("chat", "Hi", stream=True) == ["H\u00e4"]


def test_what_follows_the_last_event_is_ignored(call: Call, peer: Peer) -> None:
    last = event({"text": "!", "configuration": {}})
    peer.answers.append(sending(event({"text": "Hi"}) + last + b"data: [DONE]\n\n"))
    assert call("chat", "Hi", stream=True) == ["Hi", "!"]


def test_a_refused_stream_is_tried_again(call: Call, peer: Peer) -> None:
    peer.answers.append(failing(429, retry_after="0"))
    assert "".join(call("chat", "Hi", stream=True)) == "Hello, world\u2028!"
    assert len(peer.requests) == 2


def test_a_silent_stream_times_out(call: Call, peer: Peer) -> None:
    peer.answers.append(slow(peer, ["first", "second"], pause=3.0))
    with pytest.raises(open_llm_client.TimedOut, match=r"silent for 0\.4 s"):
        call("chat", "Hi", stream=True, options={"timeout": 0.4})


def test_nothing_is_sent_before_the_first_step(peer: Peer) -> None:
    peer.answers.append(failing(400))
    with open_llm_client.create(peer.url) as client:
        stream = client.chat("Hi", stream=True)
        assert peer.requests == []
        with pytest.raises(open_llm_client.BadRequest):
            next(stream)
