"""What a gRPC client may not do to the server: deadlines, sizes, streams left unread, floods."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from functools import partial
from queue import SimpleQueue

import grpc
import psutil
import pytest

from openllm.config.model import RequestDefaults
from openllm.config.server import ServerSettings
from openllm.server.grpc_server import MAX_STREAMS
from openllm.server.proto import openllm_pb2 as pb
from openllm.types import CompletionChunk, Usage
from tests.api.conftest import TEXT, ScriptedFleet, StubFleet, scripted_engine
from tests.api.grpc_peer import (
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    Peer,
    Wire,
    chat,
    connected,
    frame,
    head,
    message,
    running_grpc,
    status,
)
from tests.waiting import wait_until

CHAT = b"/openllm.v1.OpenLLM/ChatCompletion"
STREAM = b"/openllm.v1.OpenLLM/ChatCompletionStream"


async def endless() -> AsyncIterator[CompletionChunk]:
    while True:
        yield CompletionChunk(0, "word ", (1,))
        await asyncio.sleep(0.01)


async def short() -> AsyncIterator[CompletionChunk]:
    yield CompletionChunk(0, "done", (1,), finish_reason="stop", usage=Usage(1, 1))


def ended(peer: Peer, call: Callable[[], object]) -> tuple[str, str, dict[str, str]]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return status(raised.value)


@pytest.mark.reliability("F-24")
@pytest.mark.parametrize("name", ["ChatCompletion", "ChatCompletionStream"])
def test_a_deadline_of_the_client_ends_the_work(name: str) -> None:
    fleet = StubFleet(endless)
    with running_grpc(fleet) as peer:
        call = peer.stream if name.endswith("Stream") else peer.call
        code, _, _ = ended(peer, lambda: list(call(name, chat("hi"), timeout=0.1)))
        assert code == "DEADLINE_EXCEEDED"
        wait_until(lambda: fleet.open == 0)


@pytest.mark.reliability("F-24")
def test_cancelling_ends_the_work() -> None:
    fleet = StubFleet(endless)
    with running_grpc(fleet) as peer:
        call = peer.stream("ChatCompletionStream", chat("hi"))
        next(call)
        assert fleet.open == 1
        call.cancel()
        wait_until(lambda: fleet.open == 0)


@pytest.mark.reliability("F-24")
def test_a_connection_that_breaks_ends_the_work() -> None:
    fleet = StubFleet(endless)
    with running_grpc(fleet) as peer:
        with Wire(peer.port) as wire:
            body = message(chat("hi").SerializeToString())
            wire.send(frame(HEADERS, 4, 1, head(STREAM)), frame(DATA, 1, 1, body))
            wire.first(DATA)
            assert fleet.open == 1
        wait_until(lambda: fleet.open == 0)


def test_the_servers_own_time_limit_ends_the_work() -> None:
    fleet = StubFleet(endless)
    with running_grpc(fleet, ServerSettings(grpc=True, timeout=0.3)) as peer:
        code, text, _ = ended(peer, lambda: peer.call("ChatCompletion", chat("hi")))
        assert (code, text) == ("DEADLINE_EXCEEDED", "the request took longer than 0.3 s")
        wait_until(lambda: fleet.open == 0)


@pytest.mark.reliability("F-24")
def test_a_request_over_the_limit_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    fleet = ScriptedFleet(
        {"demo": scripted_engine(tmp_path_factory.mktemp("size"), "demo")}, RequestDefaults()
    )
    with running_grpc(fleet) as peer:
        size = (8 << 20) - chat("").ByteSize()
        for extra, expected in ((-100, "INVALID_ARGUMENT"), (1, "RESOURCE_EXHAUSTED")):
            request = chat("x" * (size + extra))
            code, text, _ = ended(peer, partial(peer.call, "ChatCompletion", request))
            assert code == expected, text
        assert peer.call("ChatCompletion", chat("hi")).choices[0].message.content == TEXT


@pytest.mark.reliability("F-24", "F-02")
def test_a_stream_left_unread_is_bounded_and_ends() -> None:
    begun = threading.Event()

    async def flood() -> AsyncIterator[CompletionChunk]:
        begun.set()
        while True:
            yield CompletionChunk(0, "x" * 1000, (1,))
            await asyncio.sleep(0)

    fleet = StubFleet(flood)
    process = psutil.Process()
    with running_grpc(fleet, ServerSettings(grpc=True, write_timeout=1)) as peer:
        with Wire(peer.port) as wire:
            body = message(chat("hi").SerializeToString())
            wire.send(frame(HEADERS, 4, 1, head(STREAM)), frame(DATA, 1, 1, body))
            assert begun.wait(20)
            before = process.memory_info().rss
            wait_until(lambda: fleet.open == 0)
            assert process.memory_info().rss - before < 32 << 20
            # The client gives way at last, and reads how it ended.
            wire.send(frame(8, 0, 1, struct.pack(">I", 1 << 24)))
            wire.send(frame(8, 0, 0, struct.pack(">I", 1 << 24)))
            last = next(each for each in wire.frames() if each[0] == HEADERS and each[1] & 1)
            assert b"the answer was not read for 1 s" in last[3]
        with connected(peer.port) as other:
            assert next(other.stream("ChatCompletionStream", chat("hi")))


@pytest.mark.reliability("F-24")
def test_a_client_that_floods_with_pings_is_sent_away() -> None:
    with running_grpc(StubFleet(short)) as peer:
        with Wire(peer.port) as wire:
            kind = PING
            while kind == PING:  # One by one, as a broken pipe would swallow the farewell.
                wire.send(frame(PING, 0, 0, b"12345678"))
                kind, _, _, payload = wire.first(PING, GOAWAY)
            assert struct.unpack(">I", payload[4:8])[0] == 11  # ENHANCE_YOUR_CALM
        assert peer.call("ChatCompletion", chat("hi")).choices[0].message.content == "done"


@pytest.mark.reliability("F-24")
def test_ten_thousand_streams_that_are_reset_leave_the_server_calm() -> None:
    fleet = StubFleet(endless)
    process = psutil.Process()
    with running_grpc(fleet) as peer:
        body = message(chat("hi").SerializeToString())
        sent = 0
        while sent < 10_000:
            with Wire(peer.port) as wire:
                try:
                    for number in range(1, 2001, 2):
                        wire.send(
                            frame(HEADERS, 4, number, head(STREAM)),
                            frame(DATA, 1, number, body),
                            frame(RST_STREAM, 0, number, struct.pack(">I", 8)),
                        )
                        sent += 1
                except (BrokenPipeError, ConnectionResetError):
                    pass  # It has been sent away.
        with connected(peer.port) as other:
            wait_until(lambda: begins(other))
        wait_until(lambda: fleet.open == 0)
        wait_until(lambda: process.cpu_percent(1) < 50)


def begins(peer: Peer) -> bool:
    """Whether a stream is served now."""
    try:
        return bool(next(peer.stream("ChatCompletionStream", chat("hi"), timeout=5)))
    except grpc.RpcError as error:
        if error.code().name in (
            "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE",
        ):  # fmt: skip
            return False
        raise


def test_a_burst_of_calls_is_served_whole() -> None:
    with running_grpc(StubFleet(short)) as peer, ExitStack() as stack:
        others = [stack.enter_context(connected(peer.port)) for _ in range(3)]
        calls = [each.begin("ListModels", pb.ListModelsRequest()) for each in others * 700]
        assert {call.result().models[0].id for call in calls} == {"stub"}


def test_streams_beyond_the_limit_wait_for_their_turn() -> None:
    settings = struct.pack(">HI", 4, 65535)
    with running_grpc(StubFleet(short)) as peer, Wire(peer.port, settings) as wire:
        _, _, _, payload = wire.first(4)
        offered = dict(struct.iter_unpack(">HI", payload))
        assert offered[3] == MAX_STREAMS


def test_a_request_that_never_comes_is_not_awaited_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("openllm.server.grpc_call.IDLE_TIMEOUT", 0.3)
    with running_grpc(StubFleet(short)) as peer, Wire(peer.port) as wire:
        wire.send(frame(HEADERS, 4, 1, head(CHAT)), frame(DATA, 0, 1, b"\0\0\0\0\x09abc"))
        last = next(each for each in wire.frames() if each[0] == HEADERS and each[1] & 1)
        assert last[2] == 1


def test_the_probe_takes_no_more_than_it_needs() -> None:
    with running_grpc(StubFleet(short), ServerSettings(grpc=True, api_key=("key",))) as peer:
        with Wire(peer.port) as wire:
            block = head(b"/grpc.health.v1.Health/Check")
            wire.send(frame(HEADERS, 4, 1, block), frame(DATA, 0, 1, b"\0" + b"\1" * 5000))
            assert GOAWAY in [kind for kind, _, _, _ in wire.frames()]
        assert peer.raw("/grpc.health.v1.Health/Check", b"")


def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllm.server.grpc_server.HANDSHAKE_SECONDS", 0.5)
    with running_grpc(StubFleet(short)) as peer:
        with socket.create_connection(("127.0.0.1", peer.port), timeout=60) as sock:
            while sock.recv(1000):
                pass
        assert peer.call("ChatCompletion", chat("hi")).choices[0].message.content == "done"


def test_an_idle_connection_is_closed() -> None:
    settings = ServerSettings(grpc=True, timeout_keep_alive=1)
    with running_grpc(StubFleet(short), settings) as peer, Wire(peer.port) as wire:
        body = message(chat("hi").SerializeToString())
        wire.send(frame(HEADERS, 4, 1, head(CHAT)), frame(DATA, 1, 1, body))
        assert GOAWAY in [kind for kind, _, _, _ in wire.frames()]


def test_a_compressed_request_is_refused() -> None:
    data = gzip.compress(chat("x" * 100_000).SerializeToString())
    body = struct.pack(">BI", 1, len(data)) + data
    with running_grpc(StubFleet(short)) as peer:
        with Wire(peer.port) as wire:
            block = head(CHAT, (b"grpc-encoding", b"gzip"))
            wire.send(frame(HEADERS, 4, 1, block), frame(DATA, 1, 1, body))
            last = next(each for each in wire.frames() if each[0] == HEADERS and each[1] & 1)
            assert b"12" in last[3]  # UNIMPLEMENTED
        assert peer.call("ChatCompletion", chat("hi")).choices[0].message.content == "done"


@pytest.mark.parametrize(
    "path", [b"/\xff\xfe", b"", b"x", b"/" + b"a" * 200, b"/\x01", b"//", b"/a/b/c"], ids=repr
)
def test_any_path_leaves_the_server_alive(path: bytes) -> None:
    with running_grpc(StubFleet(short)) as peer:
        with Wire(peer.port) as wire:
            wire.send(frame(HEADERS, 4, 1, head(path)), frame(DATA, 1, 1, message(b"")))
            wire.first(HEADERS, RST_STREAM, GOAWAY)
        assert peer.call("ChatCompletion", chat("hi")).choices[0].message.content == "done"


@pytest.mark.parametrize(
    "field",
    [
        (b"x-request-id", b"\xff\xfe"),
        (b"authorization", b"Bearer \xc3\x28"),
        (b"x-bin", b"\xff"),
        (b"grpc-timeout", b"soon"),
        (b"grpc-timeout", b"99999999H"),
    ],
    ids=repr,
)
def test_any_metadata_leaves_the_server_alive(field: tuple[bytes, bytes]) -> None:
    body = message(chat("hi").SerializeToString())
    with running_grpc(StubFleet(short)) as peer:
        with Wire(peer.port) as wire:
            wire.send(frame(HEADERS, 4, 1, head(CHAT, field)), frame(DATA, 1, 1, body))
            wire.first(HEADERS, RST_STREAM, GOAWAY)
        assert peer.call("ChatCompletion", chat("hi")).choices[0].message.content == "done"


def test_metadata_over_the_limit_is_refused() -> None:
    with running_grpc(StubFleet(short)) as peer:
        many = (("x-long", "a" * 20_000),)
        code, _, _ = ended(
            peer, lambda: peer.call("ListModels", pb.ListModelsRequest(), metadata=many)
        )
        assert code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
def test_standing_calls_have_no_limit_and_end_first(path: str) -> None:
    settings = ServerSettings(grpc=True, timeout=0.5)
    with (
        running_grpc(StubFleet(short), settings, grace=60) as peer,
        grpc.insecure_channel(f"127.0.0.1:{peer.port}") as channel,
    ):
        requests: SimpleQueue[bytes | None] = SimpleQueue()
        requests.put(b"")
        call = channel.stream_stream(path)(iter(requests.get, None), timeout=120)
        next(call)
        time.sleep(1.0)
        assert call.is_active()
        begun = time.monotonic()
        peer.stop()
        code, text, _ = ended(peer, lambda: list(call))
        requests.put(None)
        assert time.monotonic() - begun < 30  # Half of the grace.
    assert (code, text) == ("UNAVAILABLE", "the server is shutting down")


def test_at_the_end_running_calls_are_told() -> None:
    with running_grpc(StubFleet(endless)) as peer:
        call = peer.stream("ChatCompletionStream", chat("hi"))
        next(call)
        peer.stop()
        code, text, metadata = ended(peer, lambda: list(call))
    assert (code, text) == ("UNAVAILABLE", "the server is shutting down")
    assert metadata["retry-after"] == "1"
