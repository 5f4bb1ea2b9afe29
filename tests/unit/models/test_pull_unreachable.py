"""A server that nobody can reach is told soon, with a way out; one that was there is waited for."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openllm.config.download import DownloadOptions
from openllm.errors import ModelFetchError
from openllm.models import transfer_http, transfer_retry
from openllm.models.facts_ahead import facts_ahead
from openllm.models.pull import pull
from openllm.models.ref import parse_ref
from openllm.models.transfer_stop import Halt
from tests.hub_puller import end, environment, start_command
from tests.hub_server import HubServer
from tests.unit.models.pulls import MB, fetch, weights
from tests.waiting import wait_until


@pytest.fixture
def nobody() -> Iterator[str]:
    """The address of a port that is taken, and on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def failure(text: str, **options: Any) -> str:
    with pytest.raises(ModelFetchError) as raised:
        pull(parse_ref(text), DownloadOptions(**options), framework=lambda *_: "pt")
    return raised.value.message


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def test_a_hub_that_cannot_be_reached_is_told_soon(
    home: Path, nobody: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(transfer_retry, "monotonic", lambda: sum(waited))
    monkeypatch.setattr(Halt, "pause", lambda _, seconds: waited.append(seconds))
    with pytest.raises(ModelFetchError) as raised:
        facts_ahead(parse_ref("org/tiny"), DownloadOptions(hub_endpoint=f"http://{nobody}"))
    assert 2.0 < sum(waited) <= transfer_retry.UNKNOWN_SECONDS
    message = raised.value.message
    assert message.startswith(f"{nobody} cannot be reached (Connection refused)")
    for way in ("--hub-endpoint", "HF_ENDPOINT", "proxy", "--offline"):
        assert way in message
    assert "kept" not in message
    assert told(caplog) == [f"cannot reach {nobody}, trying again"]


def test_the_command_says_so(home: Path, nobody: str) -> None:
    ended = end(start_command("org/tiny", environment(home, f"http://{nobody}")))
    assert ended.status == 1
    assert ended.errors.startswith(f"cannot reach {nobody}, trying again\n")
    assert ended.last["error"]["message"].startswith(f"{nobody} cannot be reached")


def test_a_url_has_no_way_out_by_another_hub(home: Path, nobody: str) -> None:
    message = failure(f"http://{nobody}/m.gguf", download_retries=0)
    assert message == (
        f"{nobody} cannot be reached (Connection refused); given up after 1 attempt: check the"
        " address, the network and the proxy (HTTPS_PROXY)"
    )


def test_a_host_that_is_none_is_told_with_the_reason(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    message = failure("http://absent.invalid/m.gguf", download_retries=0)
    assert message.startswith("absent.invalid cannot be reached (Name or service not known)")


def test_retries_that_are_asked_for_are_made(
    home: Path, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer_retry, "UNKNOWN_SECONDS", 0.0)
    monkeypatch.setattr(transfer_retry, "_FIRST_WAIT", 0.001)
    endpoint = f"http://{nobody}"
    assert "after 4 attempts" in failure("org/tiny", hub_endpoint=endpoint, download_retries=3)
    assert "after 2 attempts:" in failure("org/tiny", hub_endpoint=endpoint)


@pytest.mark.reliability("F-08")
def test_a_server_that_was_there_is_waited_for(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer_retry, "UNKNOWN_SECONDS", 0.0)
    monkeypatch.setattr(transfer_retry, "_FIRST_WAIT", 0.001)
    fetch(hub)
    hub.close()
    message = failure("org/next", hub_endpoint=hub.url)
    assert "given up after 11 attempts, try again later" in message
    monkeypatch.setattr(transfer_http, "_answered", set())
    assert "given up after 2 attempts:" in failure("org/next", hub_endpoint=hub.url)


def test_files_that_lose_the_network_together_tell_it_once(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transfer_retry, "_FIRST_WAIT", 0.001)
    shards = {f"model-0000{n}-of-00004.safetensors": weights(2 * MB, n) for n in range(1, 5)}
    hub.add_repo("org/shards", {"config.json": b"{}", **shards})
    hub.faults.stall_after = MB + MB // 2
    endpoint = hub.url

    def lose() -> None:
        wait_until(lambda: hub.body_bytes >= 4 * hub.faults.stall_after)
        hub.close()

    losing = threading.Thread(target=lose)
    losing.start()
    with pytest.raises(ModelFetchError, match="cannot be reached"):
        fetch(hub, "org/shards", hub_endpoint=endpoint, download_timeout=60.0)
    losing.join()
    assert told(caplog) == [f"cannot reach {endpoint.removeprefix('http://')}, trying again"]


def test_a_network_that_is_lost_again_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    def lost() -> None:
        raise transfer_retry.UnreachableError("cdn", "refused", "look at it", known=True)

    retries = transfer_retry.Retries(DownloadOptions(download_retries=2), lambda _: None)
    for _ in range(2):
        retries.reached("other")
        with pytest.raises(ModelFetchError):
            retries.run(lost)
    assert told(caplog) == ["cannot reach cdn, trying again"]
    retries.reached("cdn")
    with pytest.raises(ModelFetchError):
        retries.run(lost)
    assert told(caplog) == ["cannot reach cdn, trying again"] * 2


def test_what_was_done_before_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_retry, "UNKNOWN_SECONDS", 100.0)
    monkeypatch.setattr(transfer_retry, "_FIRST_WAIT", 0.001)
    now = iter((1000.0, 1050.0, 1101.0))  # An hour after the work began.
    monkeypatch.setattr(transfer_retry, "monotonic", lambda: next(now))

    def attempt() -> None:
        raise transfer_retry.UnreachableError("cdn", "refused", "look at it", known=False)

    with pytest.raises(ModelFetchError, match=r"after 3 attempts: look at it\. What has arrived"):
        transfer_retry.Retries(DownloadOptions(), lambda _: None).run(attempt, lambda: False)


def test_what_has_arrived_is_kept_where_something_can_have(hub: HubServer) -> None:
    hub.faults.listing_status = 503
    message = failure("org/tiny", hub_endpoint=hub.url, download_retries=0)
    assert message.endswith("HTTP 503; given up after 1 attempt, try again later")
    hub.faults.clear()
    hub.faults.status, hub.faults.only = 503, "model.safetensors"
    message = failure("org/tiny", hub_endpoint=hub.url, download_retries=0)
    assert "given up after 1 attempt that brought nothing. What has arrived is kept" in message
