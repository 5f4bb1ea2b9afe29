"""Whoever wants a download to end is answered at once, whatever it waits for."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from openllm.errors import ModelFetchError, OpenLLMError
from openllm.models import transfer_content
from openllm.models.transfer import PARTS
from tests.hub_server import HubServer
from tests.unit.models.pulls import GGUF, MB, SIZE, downloading, fetch, right
from tests.waiting import SECONDS, wait_until

SOON = 8.0
"""Seconds within which a cancelled download ends, on a machine that is busy too."""


@contextmanager
def ends_soon(
    cancelled: threading.Event, when: Callable[[], object] = lambda: True
) -> Iterator[None]:
    """Cancel once `when` holds; what is within raises that it was stopped, soon after that."""
    called: list[float] = []

    def cancel() -> None:
        wait_until(when)
        called.append(time.monotonic())
        cancelled.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(OpenLLMError, match="stopped"):
        yield
    ended = time.monotonic()
    thread.join()
    assert ended - called[0] < SOON


@pytest.mark.parametrize(
    "fault",
    [{"listing_stall": True}, {"listing_status": 503, "retry_after": "30"}],
    ids=["stalled", "waiting for a retry"],
)
def test_a_listing_that_does_not_come_is_given_up(hub: HubServer, fault: dict[str, Any]) -> None:
    hub.faults.__dict__.update(fault)
    cancelled = threading.Event()
    with ends_soon(cancelled, lambda: hub.requests):
        fetch(hub, cancelled=cancelled, download_timeout=30.0)
    hub.faults.clear()
    assert right(fetch(hub))


def test_a_length_that_does_not_come_is_given_up(hub: HubServer) -> None:
    url = hub.add_file("files/x.gguf", GGUF)
    hub.faults.head_status, hub.faults.retry_after = 503, "30"
    cancelled = threading.Event()
    with ends_soon(cancelled, lambda: hub.asked("x.gguf", "HEAD")):
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
    hashing, cancelled = threading.Event(), threading.Event()

    def slow(descriptor: int, blocks: list[memoryview], offset: int) -> int:
        hashing.set()
        cancelled.wait(SECONDS)
        time.sleep(2.0)
        return real(descriptor, blocks, offset)

    url = hub.add_file("files/x.gguf", GGUF)
    monkeypatch.setattr(transfer_content.os, "preadv", slow)
    with ends_soon(cancelled, hashing.is_set):
        fetch(hub, url, cancelled=cancelled)
    monkeypatch.undo()


@pytest.mark.parametrize("when", ["stalled", "flowing", "waiting for a retry"])
def test_a_cancel_ends_soon_and_keeps_what_came(hub: HubServer, home: Path, when: str) -> None:
    hub.faults.only = "model.safetensors"
    if when == "stalled":
        hub.faults.stall_after = 2 * MB
    elif when == "flowing":
        hub.faults.rate = MB // 4
    else:
        hub.faults.status, hub.faults.retry_after = 503, "30"
    least = {"stalled": 3 * MB // 2, "flowing": 1, "waiting for a retry": 0}[when]

    def under_way() -> bool:
        came = max((part.stat().st_size for part in home.rglob(f"{PARTS}/*")), default=0)
        return bool(hub.asked("model.safetensors")) and came >= least

    cancelled = threading.Event()
    with ends_soon(cancelled, under_way):
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
