"""A model from a hub into the store, whatever the server, the network and the disk do meanwhile."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from openllm.config.download import DownloadOptions
from openllm.errors import ConfigurationError, ModelFetchError, OpenLLMError
from openllm.models import store, transfer_retry
from openllm.models.pull import Progress, pull
from openllm.models.ref import parse_ref
from openllm.models.transfer_http import Session
from openllm.models.transfer_retry import Pace
from tests.hub_server import HubServer
from tests.unit.models.pulls import (
    FILES,
    MB,
    SIZE,
    WEIGHTS,
    fetch,
    right,
    weights,
)


@pytest.mark.spec("S1-40", "S2-21")
def test_a_model_is_stored_under_its_commit_and_fetched_once(hub: HubServer, home: Path) -> None:
    model = fetch(hub)
    commit = hub.repos["org/tiny"].refs["main"]
    assert model.tag == f"pt-org--tiny:{commit}"
    assert right(model)
    assert hub.body_bytes == SIZE
    assert not any(each.is_dir() for each in (home / "openllm" / "downloads").iterdir())
    assert fetch(hub).tag == model.tag
    assert hub.body_bytes == SIZE


@pytest.mark.reliability("F-08")
@pytest.mark.parametrize(
    ("fault", "most"),
    [
        ({"reset_every": MB}, SIZE + MB),  # A reset throws away what was under way.
        ({"close_after": MB}, SIZE),
        ({"stall_after": MB, "times": 1}, SIZE),
        ({"stall_after": 0, "times": 1}, SIZE),
        ({"reset_every": MB, "ignore_range": True, "times": 2}, SIZE + 2 * MB),
        ({"close_after": 2 * MB, "times": 2, "refuse_range": True}, 2 * SIZE),
        ({"content_length": 1000, "times": 2}, 3 * SIZE),
        ({"content_length": "missing"}, SIZE),
        ({"status": 503, "times": 2}, SIZE),
        ({"status": 429, "times": 1, "retry_after": "1"}, SIZE),
        ({"flip": 5 * 100_000, "times": 1}, 2 * SIZE),
    ],
    ids=lambda each: "-".join(map(str, each)) if isinstance(each, dict) else "",
)
def test_a_fault_that_passes_costs_no_more_than_it_must(
    hub: HubServer, fault: dict[str, Any], most: int
) -> None:
    hub.faults.__dict__.update({"only": "model.safetensors", **fault})
    assert right(fetch(hub))
    assert hub.body_bytes <= most


@pytest.mark.reliability("F-08", "F-13", "S-30")
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 403},
        {"stall_after": 1000},
        {"reset_every": 1000},
        {"endless": True},
        {"gzip_bomb": True},
        {"content_length": 10},
        {"flip": 10},
        {"close_after": 2 * MB, "refuse_range": True},
        {"reset_every": 2 * MB, "ignore_range": True},
        {"close_after": MB, "content_range": "bytes 7-9/10"},
        {"close_after": MB, "content_range": "nonsense"},
        {"swap": {"model.safetensors": "config.json"}},
        {"redirect_to": "file:///etc/passwd"},
        {"redirect_to": "{path}"},
    ],
    ids=lambda fault: "-".join(fault),
)
def test_a_fault_that_stays_ends_in_an_error_of_ours(hub: HubServer, fault: dict[str, Any]) -> None:
    only = "" if "redirect_to" in fault else "model.safetensors"
    hub.faults.__dict__.update({"only": only, **fault})
    with pytest.raises(ModelFetchError):
        fetch(hub, download_timeout=0.2, download_retries=2)
    assert store.stored() == ()
    assert hub.body_bytes <= 12 * SIZE


def test_retries_are_as_many_as_asked_and_not_all_at_once(hub: HubServer) -> None:
    hub.faults.status, hub.faults.only = 503, "model.safetensors"
    with pytest.raises(ModelFetchError, match="503"):
        fetch(hub, download_retries=2)
    asked = hub.asked("model.safetensors")
    assert len(asked) == 3


@pytest.mark.reliability("F-13")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_bit_that_is_wrong_is_found_and_fetched_once_more(hub: HubServer, name: str) -> None:
    hub.faults.only, hub.faults.flip, hub.faults.times = name, 7, 1
    assert right(fetch(hub))
    hub.reset_counts()
    hub.faults.times = None
    commit = hub.add_repo("org/tiny", {**FILES, "x.json": b"1"})
    with pytest.raises(OpenLLMError, match=name):
        fetch(hub, f"org/tiny@{commit}")
    assert len(hub.asked(name)) == 2


@pytest.mark.reliability("F-13")
def test_swapped_shards_are_found(hub: HubServer) -> None:
    shards = {f"model-0000{n}-of-00002.safetensors": weights(1000, n) for n in (1, 2)}
    hub.add_repo("org/shards", {"config.json": b"{}", **shards})
    first, second = shards
    hub.faults.swap = {first: second, second: first}
    with pytest.raises(ModelFetchError):
        fetch(hub, "org/shards")


@pytest.mark.reliability("F-13")
def test_what_went_bad_on_the_disk_is_not_gone_on_with(hub: HubServer, home: Path) -> None:
    hub.faults.only, hub.faults.close_after = "model.safetensors", 2 * MB
    cancelled = threading.Event()

    def stop(progress: Progress) -> None:
        if progress.done > MB:
            cancelled.set()

    with pytest.raises(ModelFetchError):
        fetch(hub, on_progress=stop, cancelled=cancelled)
    hub.faults.clear()
    (part,) = (one for one in home.rglob("*") if one.is_file() and one.stat().st_size > MB)
    with open(part, "r+b") as file:
        file.seek(500)
        file.write(b"damaged")
    assert right(fetch(hub))


@pytest.mark.parametrize("content", [b"{}", WEIGHTS])
def test_files_of_equal_content(hub: HubServer, content: bytes) -> None:
    names = ("generation_config.json", "special_tokens_map.json", "vocab.json")
    hub.add_repo("org/equal", {**FILES, **dict.fromkeys(names, content)})
    model = fetch(hub, "org/equal")
    assert {Path(model.folder, name).read_bytes() for name in names} == {content}


@pytest.mark.reliability("F-09")
@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_obstacle(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", refuse)
    assert right(fetch(hub))


@pytest.mark.spec("S3-38")
def test_files_come_side_by_side_with_the_headers_and_the_rate_asked_for(hub: HubServer) -> None:
    shards = {f"model-0000{n}-of-00004.safetensors": weights(200_000, n) for n in range(1, 5)}
    hub.add_repo("org/shards", {"config.json": b"{}", **shards})
    began = time.monotonic()
    fetch(hub, "org/shards", download_rate=1_000_000, download_header=("x-proxy: yes",))
    assert time.monotonic() - began > 0.6
    assert all(each.headers.get("x-proxy") == "yes" for each in hub.asked("/resolve/"))
    assert all(each.headers["accept-encoding"] == "identity" for each in hub.requests)


def test_downloads_at_the_same_time_share_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_retry, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(Pace, "_free_at", 0.0)
    first, second, slow, free = Pace(MB), Pace(MB), Pace(MB // 4), Pace(None)
    waited = [pace.delay(MB // 2) for pace in (first, second, free, first, slow)]
    assert waited == [0.5, 1.0, 0.0, 1.5, 3.5]


def test_progress_adds_up_by_file(hub: HubServer) -> None:
    seen: list[Progress] = []
    fetch(hub, on_progress=seen.append)
    assert [seen[0].phase, seen[-1].phase] == ["listing", "done"]
    assert (seen[-1].file, seen[-1].done) == ("", seen[-1].total)
    for each in seen:
        if each.phase == "downloading":
            assert each.total == SIZE
            assert 0 <= each.done <= each.total
            assert each.file in FILES


def test_an_engine_that_cannot_run_it_costs_no_weights(hub: HubServer) -> None:
    def refuse(architecture: str, form: str) -> str:
        assert (architecture, form) == ("X", "safetensors")
        raise ConfigurationError("no engine")

    with pytest.raises(ConfigurationError, match="no engine"):
        pull(parse_ref("org/tiny"), DownloadOptions(hub_endpoint=hub.url), framework=refuse)
    assert hub.body_bytes < 1000


def test_parts_of_files_are_read(hub: HubServer) -> None:
    options = DownloadOptions(hub_endpoint=hub.url)
    commit = hub.repos["org/tiny"].refs["main"]
    url = f"{hub.url}/org/tiny/resolve/{commit}/model.safetensors"
    with Session(options, hub.url) as session:
        assert session.read_range(url, 100, 50) == WEIGHTS[100:150]
        hub.faults.ignore_range = True
        for length in (50, 2 * len(WEIGHTS)):
            with pytest.raises(ModelFetchError, match="parts"):
                session.read_range(url, 100, length)
