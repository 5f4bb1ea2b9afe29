"""What uvicorn refuses below the application, byte by byte over a socket."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import psutil
import pytest

from openllm.config.model import RequestDefaults
from openllm.config.server import ServerSettings
from openllm.server.protocol import MAX_HEADER_BYTES
from tests.api.conftest import TEXT, ScriptedFleet, Server, running, scripted_engine

HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("sockets")
    fleet = ScriptedFleet({"demo": scripted_engine(folder, "demo")}, RequestDefaults())
    with running(fleet, ServerSettings(api_key=("secret",))) as server:
        yield server


def talk(server: Server, *pieces: bytes, until_closed: bool = True, pause: float = 0) -> bytes:
    """Send the pieces; return all that comes back before the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        try:
            for piece in pieces:
                sock.sendall(piece)
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass  # It has been refused already.
        got = b""
        while until_closed or not got:
            try:
                data = sock.recv(65536)
            except ConnectionResetError:
                break
            if not data:
                break
            got += data
        return got


def error(answer: bytes, status: int) -> dict[str, str]:
    """Check that there is one answer, an error in our shape; return it."""
    assert [int(each) for each in HEAD.findall(answer)] == [status], answer[:300]
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
    assert lines[b"content-type"] == b"application/json"
    assert lines[b"x-request-id"].startswith(b"req_")
    assert int(lines[b"content-length"]) == len(body)
    found: dict[str, str] = json.loads(body)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /livez HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /li vez HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\nHost: localhost\n\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: local\0host\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"POST /chat HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST /chat HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_http_gets_our_shape(keyed: Server, request_bytes: bytes) -> None:
    found = error(talk(keyed, request_bytes), 400)
    assert found["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n"],
        [b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ", *[b"a" * 8192] * 200],
        [b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"],
        [b"GET /livez HTTP/1.1\r\nHost: localhost\r\n", *[b"a: b\r\n" * 1000] * 30],
        [b"\r\n" * 40_000],
    ],
    ids=["one header", "never ends", "path", "many headers", "blank lines"],
)
def test_a_huge_header_block_is_refused(keyed: Server, pieces: list[bytes]) -> None:
    memory = psutil.Process().memory_info().rss
    found = error(talk(keyed, *pieces), 431)
    assert str(MAX_HEADER_BYTES) in found["message"]
    assert psutil.Process().memory_info().rss - memory < 16 << 20


def test_a_large_header_block_is_read(keyed: Server) -> None:
    value = b"a" * (MAX_HEADER_BYTES - 500)
    answer = talk(
        keyed,
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: " + value + b"\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 200")


def test_trailers_are_bounded_and_change_nothing(keyed: Server) -> None:
    start = b"POST /chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = talk(keyed, start, b"0\r\nX: ", *[b"a" * 8192] * 200)
    assert answer.startswith(b"HTTP/1.1 401")
    answer = talk(
        keyed,
        start.replace(b"Host", b"Connection: close\r\nHost"),
        b"0\r\nAuthorization: Bearer secret\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 401")


def test_a_large_body_is_no_header(keyed: Server) -> None:
    body = json.dumps({"prompt": "hi", "stop": ["x" * 200] * 10}).encode().ljust(300_000)
    answer = talk(
        keyed,
        b"POST /chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
        b"Content-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body),
        body,
    )
    assert answer.startswith(b"HTTP/1.1 200"), answer[:300]


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIA\r\n"
PROBE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.reliability("S-07")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_a_request_that_asks_for_another_protocol_keeps_its_body(
    server: Server, chunked: bool, pieces: int
) -> None:
    body = b'{"prompt":"hi"}'
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    whole = (
        b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        + UPGRADE + framing + b"\r\n\r\n" + framed
    )  # fmt: skip
    last = PROBE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    cuts = [0, len(whole) - len(framed), 60, 120, len(whole) - 3][:pieces]
    places = [*sorted(cuts), len(whole)]
    parts = [whole[start:end] for start, end in pairwise(places)]
    answer = talk(server, *parts, last, pause=0.05)
    assert [int(each) for each in HEAD.findall(answer)] == [200, 200], answer
    assert json.loads(re.findall(rb'\{"message":.*?\}\}', answer)[0])["message"] == TEXT


@pytest.mark.reliability("S-07")
def test_a_body_is_never_a_request_of_its_own(keyed: Server) -> None:
    head = b"POST /chat HTTP/1.1\r\nHost: localhost\r\n" + UPGRADE
    length = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(PROBE)
    error(talk(keyed, head + length, PROBE, pause=0.1), 401)


def test_many_requests_for_another_protocol_in_one_piece(server: Server) -> None:
    one = PROBE.replace(b"\r\n\r\n", b"\r\n" + UPGRADE + b"\r\n")
    last = PROBE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert HEAD.findall(talk(server, one * 1500 + last)) == [b"200"] * 1501


def test_garbage_after_an_answer_began_does_not_get_into_it(server: Server) -> None:
    body = b'{"prompt":"slow","model":"slow"}'
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(
            b"POST /chat-sse HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        got = sock.recv(65536)
        while b'"text"' not in got:
            got += sock.recv(65536)
        sock.sendall(b"nonsense\r\n\r\n")
        with suppress(ConnectionResetError):
            while data := sock.recv(65536):
                got += data
    assert len(HEAD.findall(got)) == 1
    assert b"valid HTTP" not in got


@pytest.mark.reliability("S-01")
@pytest.mark.parametrize(
    "head",
    [
        b"POST http://localhost/livez HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /chat HTTP/1.1\r\nHost: a/livez?\r\n",
        b"POST /chat HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n",
        b"POST /chat HTTP/1.1\r\n",
        b"POST /chat HTTP/1.0\r\n",
        b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: evil.example\r\n",
        b"GET /v1/models?/livez HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /livez/../v1/models HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /livez%3f HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /%2f/v1/models HTTP/1.1\r\nHost: localhost\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /chat HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ],
)
def test_no_spelling_of_a_request_gets_past_the_key(keyed: Server, head: bytes) -> None:
    answer = talk(keyed, head + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
    assert HEAD.findall(answer)[0] in (b"400", b"401", b"403"), answer[:300]


@pytest.mark.reliability("S-35")
@pytest.mark.parametrize(
    "value",
    [
        b"Bearer \xff\xfe",
        b"Bearer " + b"x" * 8192,
        b"Bearer\tsecret",
        b"bearer secret",
        b"Basic c2VjcmV0",
        b"Bearer secret\r\nAuthorization: Bearer secret",
        b"Bearer ' OR 1=1; --",
    ],
)
def test_no_spelling_of_a_key_gets_past(keyed: Server, value: bytes) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    found = error(talk(keyed, head + b"Authorization: " + value + b"\r\n\r\n"), 401)
    assert found["code"] == "invalid_api_key"
    good = talk(keyed, head + b"Authorization: Bearer secret\r\n\r\n")
    assert good.startswith(b"HTTP/1.1 200")


@pytest.mark.reliability("S-12")
def test_no_request_adds_a_header_to_its_answer(server: Server) -> None:
    for path in (
        b"/%0d%0aSet-Cookie:%20x=y",
        b"/v1/models/%0d%0aSet-Cookie:%20x=y",
        b"//evil.com/",
    ):
        answer = talk(
            server,
            b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"X-Request-Id: a%0d%0aSet-Cookie: x\r\n\r\n",
        )
        head = answer.partition(b"\r\n\r\n")[0].lower()
        assert head.startswith(b"http/1.1 404")
        assert b"set-cookie" not in head
        assert b"location" not in head
