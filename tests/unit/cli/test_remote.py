"""What `query` and `bench` say when nobody answers; nothing leaves this machine."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner

from open_llm_client import ConnectionFailed
from openllm.cli import main
from openllm.cli.remote import explain


@pytest.fixture
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setitem(sys.modules, "uvloop", None)  # It would ask the system by itself.


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Listen on a free port and answer whatever comes with `answer`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


@pytest.mark.usefixtures("no_names")
@pytest.mark.parametrize(
    ("url", "shown", "name"),
    [
        ("nonsense", "http://nonsense", "nonsense"),
        ("https://api.nowhere.example/v1", "https://api.nowhere.example", "api.nowhere.example"),
    ],
)
def test_a_name_that_does_not_resolve_is_named(url: str, shown: str, name: str) -> None:
    done = CliRunner().invoke(main, ["query", "--url", url, "Hi"])
    assert done.exit_code == 1
    assert done.stderr == (
        f"Error: cannot reach {shown}: the name {name!r} does not resolve; "
        "correct --url, e.g. http://127.0.0.1:5000\n"
    )


def test_plain_http_behind_https_is_told() -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        url = f"https://127.0.0.1:{port}"
        done = CliRunner().invoke(main, ["query", "--url", url, "Hi"])
    assert done.exit_code == 1
    assert f"cannot reach {url}: it does not speak TLS" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_certificate_that_is_not_trusted_is_told() -> None:
    cause = ssl.SSLCertVerificationError("certificate verify failed")
    cause.verify_message = "self-signed certificate"
    error = ConnectionFailed("cannot reach it", retryable=True)
    error.__cause__ = cause
    assert explain(error, "https://here") == (
        "cannot reach https://here: its certificate is not trusted: self-signed certificate"
    )


@pytest.mark.parametrize("arguments", [["http://nonsense/v1"], ["--url", "http://nonsense/v1"]])
@pytest.mark.usefixtures("no_names")
def test_bench_names_it_as_well(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, ["bench", *arguments])
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "cannot reach http://nonsense/v1: the host name 'nonsense' is not known" in done.stderr


def test_bench_takes_one_url() -> None:
    done = CliRunner().invoke(main, ["bench", "http://a/v1", "--url", "http://b/v1"])
    assert done.exit_code == 2
    assert "give URL or --url, not both" in done.stderr
