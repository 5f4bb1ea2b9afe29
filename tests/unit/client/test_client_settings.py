"""Addresses, keys and limits are checked when the client is created."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import open_llm_client
from open_llm_client.errors import ApiError, ConnectionFailed, ServerError
from open_llm_client.retries import LONGEST_PAUSE, Retries, seconds_to_wait


@pytest.mark.parametrize(
    ("given_url", "url"),
    [
        ("http://localhost:5000", "http://localhost:5000"),
        ("http://localhost:5000/", "http://localhost:5000"),
        ("localhost:5000", "http://localhost:5000"),
        ("example.org", "http://example.org"),
        (" http://localhost:5000/v1/ ", "http://localhost:5000"),
        ("http://localhost:5000/openai/v1", "http://localhost:5000"),
        ("https://example.org/llm/v1", "https://example.org/llm"),
        ("http://[::1]:5000//", "http://[::1]:5000"),
        ("HTTP://Example.org", "http://Example.org"),
    ],
)
def test_addresses_are_normalised(given_url: str, url: str) -> None:
    with open_llm_client.create(given_url) as client:
        assert client.url == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "names no host"),
        ("http://", "names no host"),
        ("http://:5000", "names no host"),
        ("ftp://localhost", "scheme 'ftp'"),
        ("http//localhost:5000", "lacks '://'"),
        ("https:/localhost:5000", "lacks '://'"),
        ("http://localhost:port", "no server address"),
        ("http://localhost:99999", "no server address"),
        ("http://[::1", "no server address"),
        ("http://local host", "blank"),
        ("http://localhost\n:5000", "blank"),
        ("http://user:secret@localhost", "user name"),
        ("http://localhost?key=1", "query"),
    ],
)
def test_a_wrong_address_is_refused_with_an_example(url: str, reason: str) -> None:
    with pytest.raises(open_llm_client.InvalidAddress, match=reason) as caught:
        open_llm_client.create(url)
    assert "http://127.0.0.1:5000" in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("key", ["two words", "new\nline", "schl\u00fcssel", "nul\0"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(key: str) -> None:
    with pytest.raises(open_llm_client.InvalidAddress, match="OPEN_LLM_API_KEY") as caught:
        open_llm_client.create(api_key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_must_be_positive(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be"):
        open_llm_client.create(timeout=timeout)


def test_retries_cannot_be_negative() -> None:
    with pytest.raises(ValueError, match="max_retries"):
        open_llm_client.create(max_retries=-1)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "2"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        (
            {
                "date": "Wed, 21 Oct 2015 07:28:00 GMT",
                "retry-after": "Wed, 21 Oct 2015 07:28:09 GMT",
            },
            9.0,
        ),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert seconds_to_wait(headers) == seconds


@given(text=st.text())
def test_no_header_breaks_the_reading(text: str) -> None:
    found = seconds_to_wait({"retry-after": text, "retry-after-ms": text, "date": text})
    assert found is None or 0 <= found < float("inf")


def test_backoff_is_exponential_jittered_and_bounded() -> None:
    random.seed(1)
    pauses: list[list[float]] = [[] for _ in range(8)]
    for _ in range(400):
        retries = Retries(8)
        for pause in pauses:
            pause.append(retries.pause_after(ConnectionFailed("no", retryable=True)))
    for attempt, found in enumerate(pauses):
        ceiling = min(LONGEST_PAUSE, 0.5 * 2**attempt)
        assert 0 <= min(found) < 0.1 * ceiling
        assert 0.9 * ceiling < max(found) <= ceiling


def test_what_the_server_asks_for_comes_before_backoff() -> None:
    assert Retries(1).pause_after(ServerError("no", status=503, retry_after=7.5)) == 7.5


@pytest.mark.parametrize(
    "error",
    [
        ApiError("no", status=400),
        ApiError("no"),
        ConnectionFailed("no"),
        ServerError("no", status=503, retry_after=61),
    ],
)
def test_a_final_error_is_raised_as_it_is(error: open_llm_client.ClientError) -> None:
    with pytest.raises(open_llm_client.ClientError) as caught:
        Retries(5).pause_after(error)
    assert caught.value is error


def test_importing_the_client_loads_no_http_library() -> None:
    code = "import sys, open_llm_client; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    third_party = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    allowed = {"__main__", "_distutils_hack", "open_llm_client", "msgspec", "typing_extensions"}
    assert third_party <= allowed


def test_every_public_name_exists() -> None:
    for name in open_llm_client.__all__:
        assert getattr(open_llm_client, name) is not None
    with pytest.raises(AttributeError):
        open_llm_client.nothing  # noqa: B018
