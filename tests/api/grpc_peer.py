"""A gRPC server over loopback with scripted models in this process, and clients for it."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from openllm.bento.listen import listen
from openllm.config.server import ServerSettings
from openllm.server.grpc_server import GrpcServer
from openllm.server.proto import openllm_pb2 as pb

METHODS = pb.DESCRIPTOR.services_by_name["OpenLLM"].methods_by_name
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7


class Peer:
    """A running server, and calls to it by the names of its methods."""

    def __init__(self, server: GrpcServer | None, port: int, channel: grpc.Channel) -> None:
        self.server = server
        self.port = port
        self._channel = channel
        self.stop: Callable[[], None] = lambda: None

    def call(self, name: str, request: Any, **options: Any) -> Any:
        """Call a method that answers once."""
        return self._method(name)(request, **{"timeout": 30, **options})

    def begin(self, name: str, request: Any) -> Any:
        """Call a method that answers once; return the future of its answer."""
        return self._method(name).future(request, timeout=30)

    def stream(self, name: str, request: Any, **options: Any) -> Any:
        """Call a method that answers with a stream; return the call, an iterator."""
        return self._method(name)(request, **{"timeout": 30, **options})

    def raw(self, path: str, message: bytes, **options: Any) -> bytes:
        """Call any path with any bytes."""
        answer: bytes = self._channel.unary_unary(path)(message, **{"timeout": 30, **options})
        return answer

    def _method(self, name: str) -> Any:
        method = METHODS[name]
        make = self._channel.unary_stream if name.endswith("Stream") else self._channel.unary_unary
        return make(
            f"/openllm.v1.OpenLLM/{name}",
            request_serializer=method.input_type._concrete_class.SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )


@contextmanager
def connected(
    port: int, server: GrpcServer | None = None, *options: tuple[str, Any]
) -> Iterator[Peer]:
    """Give a client of the server on `port` of the loopback."""
    # Calls with equal options share a connection unless told otherwise.
    apart = ("grpc.use_local_subchannel_pool", 1)
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=(apart, *options)) as channel:
        yield Peer(server, port, channel)


@contextmanager
def running_grpc(
    fleet: Any, settings: ServerSettings | None = None, *, grace: float = 2
) -> Iterator[Peer]:
    """Serve `fleet` on a free loopback port from a thread with a loop of its own."""
    sock = listen("127.0.0.1", 0, 128)
    port = sock.getsockname()[1]
    ready = threading.Event()
    held: dict[str, Any] = {}

    async def main() -> None:
        await fleet.start()
        server = GrpcServer(fleet, settings or ServerSettings(grpc=True))
        held.update(server=server, loop=asyncio.get_running_loop(), end=asyncio.Event())
        await server.start(sock)
        ready.set()
        await held["end"].wait()
        await server.stop(grace)
        await fleet.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(120)
    try:
        with connected(port, held["server"]) as peer:
            peer.stop = lambda: held["loop"].call_soon_threadsafe(held["end"].set)
            yield peer
    finally:
        with suppress(RuntimeError):  # The test has stopped the server.
            held["loop"].call_soon_threadsafe(held["end"].set)
        thread.join(60)
        assert not thread.is_alive()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def head(path: bytes, *fields: tuple[bytes, bytes]) -> bytes:
    """Return the header block of a gRPC request, each field spelled out."""
    all_fields = (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path),
        (b":authority", b"localhost"), (b"content-type", b"application/grpc"),
        (b"te", b"trailers"), *fields,
    )  # fmt: skip
    return b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in all_fields
    )


def message(data: bytes) -> bytes:
    """Return a gRPC message, not compressed."""
    return struct.pack(">BI", 0, len(data)) + data


class Wire:
    """A connection that speaks HTTP/2 as the test wants it."""

    def __init__(self, port: int, settings: bytes = b"") -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.sock.sendall(PREFACE + frame(SETTINGS, 0, 0, settings))
        self._unread = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield kind, flags, stream and payload of what comes, until the server closes."""
        while (start := self._take(9)) is not None:
            size = int.from_bytes(start[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", start[3:])
            payload = self._take(size)
            if payload is None:
                return
            if kind == SETTINGS and not flags:
                self.send(frame(SETTINGS, 1, 0))
            yield kind, flags, stream, payload

    def first(self, *kinds: int) -> tuple[int, int, int, bytes]:
        """Return the first frame of these kinds."""
        for each in self.frames():
            if each[0] in kinds:
                return each
        raise EOFError(f"the server closed before a frame of {kinds}")

    def _take(self, size: int) -> bytes | None:
        while len(self._unread) < size:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._unread += data
        taken, self._unread = self._unread[:size], self._unread[size:]
        return taken


def chat(text: str, **fields: Any) -> pb.ChatCompletionRequest:
    """Return a chat request with one message of the user."""
    turn = pb.ChatMessage(role="user", content=text)
    return pb.ChatCompletionRequest(messages=[turn], **{"model": "demo", **fields})


def status(error: grpc.RpcError) -> tuple[str, str, dict[str, str]]:
    """Return code, message and trailing metadata of a failed call."""
    metadata: Sequence[tuple[str, str]] = error.trailing_metadata() or ()
    return error.code().name, error.details() or "", dict(metadata)
