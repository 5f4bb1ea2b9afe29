"""Whoever wants a download to end is answered at once, whatever it waits for."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from openllm.errors import ModelFetchError, OpenLLMError
from openllm.models import transfer_content
from tests.hub_server import HubServer
from tests.unit.models.pulls import GGUF, MB, SIZE, downloading, fetch, right

AFTER = 0.5
"""Seconds after which the download is cancelled, and is in the midst of what it does."""


@contextmanager
def ends_soon(cancelled: threading.Event) -> Iterator[None]:
    """Cancel meanwhile; what is within raises that it was stopped, long before it would end."""
    timer = threading.Timer(AFTER, cancelled.set)
    began = time.monotonic()
    timer.start()
    with pytest.raises(OpenLLMError, match="stopped"):
        yield
    took = time.monotonic() - began
    timer.join()
    assert AFTER <= took < AFTER + 8.0


@pytest.mark.parametrize(
    "fault",
    [{"listing_stall": True}, {"listing_status": 503, "retry_after": "30"}],
    ids=["stalled", "waiting for a retry"],
)
def test_a_listing_that_does_not_come_is_given_up(hub: HubServer, fault: dict[str, Any]) -> None:
    hub.faults.__dict__.update(fault)
    cancelled = threading.Event()
    with ends_soon(cancelled):
        fetch(hub, cancelled=cancelled, download_timeout=30.0)
    hub.faults.clear()
    assert right(fetch(hub))


def test_a_length_that_does_not_come_is_given_up(hub: HubServer) -> None:
    url = hub.add_file("files/x.gguf", GGUF)
    hub.faults.head_status, hub.faults.retry_after = 503, "30"
    cancelled = threading.Event()
    with ends_soon(cancelled):
        fetch(hub, url, cancelled=cancelled)


def test_a_connection_that_is_not_taken_is_given_up(hub: HubServer) -> None:
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        address = deaf.getsockname()
        for _ in range(4):  # More than its queue has room for.
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(address)
        cancelled = threading.Event()
        endpoint = f"http://127.0.0.1:{address[1]}"
        with ends_soon(cancelled):
            fetch(hub, cancelled=cancelled, hub_endpoint=endpoint, download_timeout=30.0)


def test_waiting_for_another_process_is_given_up(hub: HubServer) -> None:
    commit = hub.repos["org/tiny"].refs["main"]
    cancelled = threading.Event()
    with downloading("org/tiny", commit), ends_soon(cancelled):
        fetch(hub, cancelled=cancelled)
    assert right(fetch(hub))


def test_hashing_what_was_here_is_given_up(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv

    def slow(descriptor: int, blocks: list[memoryview], offset: int) -> int:
        time.sleep(2.0)
        return real(descriptor, blocks, offset)

    url = hub.add_file("files/x.gguf", GGUF)
    monkeypatch.setattr(transfer_content.os, "preadv", slow)
    cancelled = threading.Event()
    with ends_soon(cancelled):
        fetch(hub, url, cancelled=cancelled)
    monkeypatch.undo()


@pytest.mark.parametrize("when", ["stalled", "flowing", "waiting for a retry"])
def test_a_cancel_ends_soon_and_keeps_what_came(hub: HubServer, when: str) -> None:
    hub.faults.only = "model.safetensors"
    if when == "stalled":
        hub.faults.stall_after = 2 * MB
    elif when == "flowing":
        hub.faults.rate = 2 * MB
    else:
        hub.faults.status, hub.faults.retry_after = 503, "30"
    cancelled = threading.Event()
    with ends_soon(cancelled):
        fetch(hub, cancelled=cancelled, download_timeout=30.0)
    hub.faults.clear()
    hub.reset_counts()
    assert right(fetch(hub))
    if when == "stalled":
        assert hub.body_bytes <= SIZE - MB


def test_a_failure_does_not_set_the_callers_event(hub: HubServer) -> None:
    cancelled = threading.Event()
    hub.faults.status, hub.faults.only = 403, "model.safetensors"
    with pytest.raises(ModelFetchError):
        fetch(hub, cancelled=cancelled)
    assert not cancelled.is_set()
