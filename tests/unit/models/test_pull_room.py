"""Room for a download: on a disk that is full or fails, and within the quota of the store."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from openllm.config.download import DownloadOptions
from openllm.errors import ModelFetchError
from openllm.models import store, transfer, transfer_content
from openllm.models.hub import RemoteFile, RemoteModel
from openllm.models.pull_plan import Plan
from openllm.models.pull_room import Room
from openllm.models.ref import parse_ref
from openllm.sizes import size_text
from tests.hub_server import HubServer
from tests.unit.models.pulls import FILES, MB, SIZE, WEIGHTS, downloading, fetch, right, weights
from tests.waiting import wait_until


@pytest.mark.reliability("F-07")
def test_too_little_space_is_told_before_the_first_byte(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * MB))
    with pytest.raises(ModelFetchError) as raised:
        fetch(hub)
    for part in (size_text(SIZE), size_text(2 * MB), str(home)):
        assert part in raised.value.message
    assert hub.body_bytes == 0


@pytest.mark.reliability("F-07")
def test_a_disk_that_fills_up_keeps_what_came(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def full(descriptor: int, content: bytes, offset: int) -> int:
        if offset > 2 * MB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, content, offset)

    monkeypatch.setattr(transfer.os, "pwrite", full)
    with pytest.raises(ModelFetchError, match="No space left"):
        fetch(hub)
    monkeypatch.setattr(transfer.os, "pwrite", real)
    hub.reset_counts()
    assert right(fetch(hub))
    assert hub.body_bytes <= SIZE - 2 * MB + 64 * 1024


@pytest.mark.reliability("F-07")
def test_a_disk_that_cannot_be_read_is_told(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(transfer_content.os, "preadv", broken)
        with pytest.raises(ModelFetchError, match="read: Input/output error; what has arrived"):
            fetch(hub)
    assert right(fetch(hub))


@pytest.mark.reliability("F-07")
def test_a_quota_is_kept_by_removing_what_was_not_used(hub: HubServer) -> None:
    fetch(hub)
    hub.add_repo("org/next", {**FILES, "model.safetensors": weights(len(WEIGHTS), 2)})
    newer = fetch(hub, "org/next", store_quota=SIZE + MB)
    assert [model.tag for model in store.stored()] == [newer.tag]
    hub.reset_counts()
    hub.add_repo("org/large", {**FILES, "model.safetensors": bytes(4 * MB)})
    with pytest.raises(ModelFetchError, match="quota"):
        fetch(hub, "org/large", store_quota=MB)
    assert hub.body_bytes == 0


@pytest.mark.reliability("F-07")
def test_what_a_dead_download_was_promised_is_free(hub: HubServer) -> None:
    dead = store.staging("org/dead", "0" * 40)
    store.begin(dead)
    (dead / store.PROMISED).write_text(str(SIZE))
    assert right(fetch(hub, store_quota=SIZE + MB))
    with downloading("org/dead", "0" * 40):
        hub.add_repo("org/next", FILES)
        with pytest.raises(ModelFetchError, match="quota"):
            fetch(hub, "org/next", store_quota=SIZE + MB)


@pytest.mark.reliability("F-07")
def test_downloads_at_the_same_time_share_a_quota(hub: HubServer) -> None:
    hub.add_repo("org/next", {**FILES, "model.safetensors": weights(len(WEIGHTS), 2)})
    quota = SIZE + SIZE // 2
    hub.faults.rate = MB // 4
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fetch, hub, store_quota=quota)
        wait_until(lambda: hub.body_bytes >= MB // 8 or first.done())
        with pytest.raises(ModelFetchError, match=f"{size_text(SIZE // 2)} left beside"):
            fetch(hub, "org/next", store_quota=quota)
        hub.faults.clear()
        assert right(first.result())
    assert not hub.asked("/org/next/resolve/")
    second = fetch(hub, "org/next", store_quota=quota)
    assert [model.tag for model in store.stored()] == [second.tag]


@pytest.mark.reliability("F-07")
def test_a_download_that_ends_has_its_part_of_the_quota_once(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/next", {**FILES, "model.safetensors": weights(len(WEIGHTS), 2)})
    quota = 2 * SIZE + MB
    hub.faults.rate = MB // 4
    real = store.promised
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fetch, hub, store_quota=quota)
        wait_until(lambda: hub.body_bytes >= MB // 8 or first.done())

        def promised(beside: Path) -> int:
            total = real(beside)
            hub.faults.clear()
            wait([first], 3.0)  # It would end here, if it could.
            return total

        monkeypatch.setattr(store, "promised", promised)
        second = fetch(hub, "org/next", store_quota=quota)
        assert {model.tag for model in store.stored()} == {first.result().tag, second.tag}


def test_a_file_without_a_length_counts_beside_those_that_have_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = (RemoteFile("a.json", 100 * MB, "url"), RemoteFile("b.json", -1, "url"))
    remote = RemoteModel("org/tiny", "0" * 40, files)
    plan = Plan(parse_ref("org/tiny"), remote, files, DownloadOptions(), threading.Event())
    asked: list[int] = []
    monkeypatch.setattr(Room, "check", lambda _, total: asked.append(total))
    Room(plan, home).check_growth(20 * MB)
    assert asked == [136 * MB]
