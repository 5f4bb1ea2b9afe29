"""What goes wrong comes out as one of our errors, and is tried again only where that is safe."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

import open_llm_client
from tests.ports import held_port
from tests.unit.client.loopback_peer import Peer, failing, sending

Call = Callable[..., Any]
NO_RETRY = {"max_retries": 0}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, open_llm_client.BadRequest),
        (401, open_llm_client.Unauthorized),
        (403, open_llm_client.Forbidden),
        (404, open_llm_client.NotFound),
        (405, open_llm_client.ApiError),
        (408, open_llm_client.ApiError),
        (413, open_llm_client.BadRequest),
        (415, open_llm_client.BadRequest),
        (429, open_llm_client.TooManyRequests),
        (500, open_llm_client.ServerError),
        (503, open_llm_client.ServerError),
        (504, open_llm_client.ServerError),
    ],
)
def test_each_status_has_its_error(
    call: Call, peer: Peer, status: int, kind: type[Exception]
) -> None:
    peer.answers.append(failing(status, "temperature is too high"))
    with pytest.raises(open_llm_client.ApiError, match="temperature is too high") as caught:
        call("chat", "Hi", options=NO_RETRY)
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.request_id) == (status, "req-7")
    assert f"HTTP {status}, request req-7" in str(caught.value)


def test_the_field_to_blame_is_named(call: Call, peer: Peer) -> None:
    body = b'{"error": {"message": "m", "type": "t", "param": "top_p", "code": "invalid_value"}}'
    peer.answers.append(sending(body, "application/json", 400))
    with pytest.raises(open_llm_client.BadRequest) as caught:
        call("complete", "Hi")
    found = caught.value
    assert (found.type, found.param, found.code) == ("t", "top_p", "invalid_value")


@pytest.mark.parametrize("body", [b"<html>502 Bad\nGateway</html>", b'{"error": "Bad"}', b""])
def test_an_error_of_something_between_is_readable(call: Call, peer: Peer, body: bytes) -> None:
    peer.answers.append(sending(body, "text/html", 502))
    with pytest.raises(open_llm_client.ServerError, match=r"Bad|status 502") as caught:
        call("chat", "Hi", options=NO_RETRY)
    assert "\n" not in str(caught.value)


def test_a_redirect_is_not_followed_but_named(call: Call, peer: Peer) -> None:
    async def moved(_: Request) -> Response:
        return Response(status_code=307, headers={"location": f"{peer.url}/elsewhere"})

    peer.answers.append(moved)
    with pytest.raises(open_llm_client.ApiError, match=f"moved to '{peer.url}/elsewhere'"):
        call("chat", "Hi", options={"api_key": "secret"})
    assert len(peer.requests) == 1


def test_an_answer_of_another_program_is_named(call: Call, peer: Peer) -> None:
    peer.answers.append(sending(b'{"reply": "Hi"}', "application/json"))
    with pytest.raises(open_llm_client.UnexpectedAnswer, match=r"/chat is not OpenLLM-Server's"):
        call("chat", "Hi")


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_what_may_pass_is_tried_again(call: Call, peer: Peer, status: int) -> None:
    peer.answers.extend([failing(status, retry_after_ms="1"), failing(status, retry_after="0")])
    assert call("chat", "Hi").message == "Hello, world!"
    assert len(peer.requests) == 3


def test_retries_are_bounded(call: Call, peer: Peer) -> None:
    peer.answers.extend([failing(503, retry_after="0")] * 9)
    with pytest.raises(open_llm_client.ServerError):
        call("chat", "Hi", options={"max_retries": 3})
    assert len(peer.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 404])
def test_what_cannot_pass_is_not_tried_again(call: Call, peer: Peer, status: int) -> None:
    peer.answers.append(failing(status, retry_after="0"))
    with pytest.raises(open_llm_client.ApiError):
        call("chat", "Hi")
    assert len(peer.requests) == 1


def test_retry_after_is_waited_for(peer: Peer) -> None:
    peer.answers.append(failing(429, retry_after="1"))
    started = time.monotonic()
    with open_llm_client.create(peer.url) as client:
        client.chat("Hi")
    assert time.monotonic() - started >= 1


def test_a_wait_too_long_is_left_to_the_caller(call: Call, peer: Peer) -> None:
    peer.answers.append(failing(429, retry_after="3600"))
    with pytest.raises(open_llm_client.TooManyRequests) as caught:
        call("chat", "Hi")
    assert caught.value.retry_after == 3600
    assert len(peer.requests) == 1


def test_nobody_at_the_address(call: Call, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    with held_port() as unused:
        monkeypatch.setattr(peer, "url", f"http://127.0.0.1:{unused.getsockname()[1]}")
        expected = pytest.raises(open_llm_client.ConnectionFailed, match="cannot reach http://127")
        with expected as caught:
            call("chat", "Hi", options=NO_RETRY)
    assert caught.value.retryable
    assert isinstance(caught.value, ConnectionError)


def test_a_host_that_does_not_exist() -> None:
    with (
        open_llm_client.create("http://nowhere.invalid", max_retries=0) as client,
        pytest.raises(open_llm_client.ConnectionFailed, match=r"nowhere\.invalid"),
    ):
        client.models()


def test_a_server_that_is_late_is_reached() -> None:
    answered = threading.Event()
    with (
        held_port() as server,
        open_llm_client.create(
            f"http://127.0.0.1:{server.getsockname()[1]}", max_retries=30
        ) as client,
    ):
        thread = threading.Thread(target=lambda: (client.models(), answered.set()))
        thread.start()
        time.sleep(0.3)
        _answer_once(server)
        thread.join(20)
    assert answered.is_set()


def test_a_connection_that_breaks_after_sending_is_not_tried_again() -> None:
    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drop_all() -> None:
            connection, _ = server.accept()
            accepted.append(connection.recv(65536))
            connection.close()

        thread = threading.Thread(target=drop_all)
        thread.start()
        with (
            open_llm_client.create(f"http://127.0.0.1:{server.getsockname()[1]}") as client,
            pytest.raises(open_llm_client.ConnectionFailed, match="broke") as caught,
        ):
            client.chat("Hi")
        thread.join(20)
    assert not caught.value.retryable
    assert len(accepted) == 1


def test_silence_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with (
            open_llm_client.create(address, timeout=0.3) as client,
            pytest.raises(open_llm_client.TimedOut, match=r"silent for 0\.3 s") as caught,
        ):
            client.chat("Hi")
    assert isinstance(caught.value, TimeoutError)


def _answer_once(server: socket.socket) -> None:
    """Begin to listen, and answer one request for the models."""
    body = b'{"data": []}'
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    server.listen()
    server.settimeout(20)
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(head + body)
