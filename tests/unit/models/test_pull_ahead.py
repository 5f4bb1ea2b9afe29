"""What is read of a model before its download is the beginning of it: nothing is fetched twice."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, hf_hub_download

from openllm.config.download import DownloadOptions
from openllm.errors import ModelFileError
from openllm.models import facts_ahead as module
from openllm.models import transfer_content
from openllm.models.facts import ModelFacts, facts_of_remote
from openllm.models.facts_ahead import facts_ahead
from openllm.models.offers import offered
from openllm.models.ref import parse_ref
from openllm.models.transfer import PARTS
from tests.hub_puller import end, environment, start_command
from tests.hub_server import HubServer
from tests.unit.model_folders import safetensors
from tests.unit.models.pulls import MB, downloading, fetch, headed_gguf, right
from tests.waiting import wait_until

HEADER = 5 * MB
LARGE = headed_gguf(HEADER, 8 * MB)
NAME = "large-Q4_0.gguf"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
FOLDER = {
    "config.json": json.dumps({"architectures": ["X"], "num_hidden_layers": 2}).encode(),
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
    ).encode(),
    SHARDS[0]: safetensors({"a": ("F32", (MB // 4,))}),
    SHARDS[1]: safetensors({"b": ("BF16", (MB // 2,))}),
}


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_ASKING", 1)


@pytest.fixture(autouse=True)
def large(hub: HubServer) -> str:
    """A GGUF file with a long header on the hub, and at a URL, which is returned."""
    hub.add_repo("org/large", {NAME: LARGE})
    return hub.add_file("files/large.gguf", LARGE)


def ask(hub: HubServer, text: str = "org/large", **options: Any) -> ModelFacts | None:
    return facts_ahead(parse_ref(text), DownloadOptions(hub_endpoint=hub.url, **options))


def parts(home: Path) -> list[Path]:
    return [one for one in home.rglob(f"{PARTS}/*") if one.is_file()]


@pytest.mark.reliability("F-09")
def test_a_download_goes_on_behind_the_header(hub: HubServer) -> None:
    asked = ask(hub)
    assert asked is not None
    assert asked.weight_bytes == len(LARGE)
    assert HEADER <= hub.body_bytes <= HEADER + 5 * MB
    before = hub.body_bytes
    assert ask(hub) == asked
    assert hub.body_bytes == before
    assert right(fetch(hub, "org/large"), NAME, LARGE)
    assert hub.body_bytes == len(LARGE)


def test_a_url_goes_on_behind_the_header(hub: HubServer, large: str) -> None:
    assert ask(hub, large) is not None
    assert right(fetch(hub, large), "large.gguf", LARGE)
    assert hub.body_bytes == len(LARGE)


def test_a_folder_goes_on_behind_the_headers_of_its_files(hub: HubServer) -> None:
    hub.add_repo("org/folder", FOLDER)
    asked = ask(hub, "org/folder")
    assert asked is not None
    assert asked.weights == {"F32": MB, "BF16": MB}
    assert 0 < hub.body_bytes < MB
    assert right(fetch(hub, "org/folder"), SHARDS[1], FOLDER[SHARDS[1]])
    assert hub.body_bytes == sum(map(len, FOLDER.values()))


def test_a_pinned_hash_is_for_the_same_part(hub: HubServer, large: str) -> None:
    digest = hub.files["/files/large.gguf"].sha256
    assert ask(hub, large, sha256=digest) is not None
    assert right(fetch(hub, large, sha256=digest), "large.gguf", LARGE)
    assert hub.body_bytes == len(LARGE)
    with pytest.raises(ModelFileError, match="not the 0000"):
        ask(hub, sha256="0" * 64)


@pytest.mark.reliability("F-09")
def test_who_finds_another_at_work_does_not_ask(hub: HubServer) -> None:
    commit = hub.repos["org/large"].refs["main"]
    with downloading("org/large", commit):
        assert ask(hub) is None
    assert hub.body_bytes == 0
    assert ask(hub) is not None


def test_nothing_is_asked_for_what_another_has_stored(hub: HubServer) -> None:
    fetch(hub, "org/large")
    hub.reset_counts()
    assert ask(hub) is None
    assert hub.body_bytes == 0


@pytest.mark.reliability("F-13")
def test_a_beginning_that_went_bad_is_no_dead_end(hub: HubServer, home: Path) -> None:
    asked = ask(hub)
    (part,) = parts(home)
    with open(part, "r+b") as file:
        file.write(b"damaged")
    assert ask(hub) == asked
    assert right(fetch(hub, "org/large"), NAME, LARGE)


def test_a_header_that_is_damaged_on_the_hub_is_told(hub: HubServer) -> None:
    hub.add_repo("org/page", {NAME: b"<html>" + bytes(MB)})
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        ask(hub, "org/page")


@pytest.mark.parametrize(
    "fault",
    [
        {"ignore_range": True},
        {"refuse_range": True},
        {"status": 500},
        {"close_after": 10},
        {"gzip_bomb": True},
        {"endless": True},
        {"changing_etag": True},
        {"content_range": "bytes 7-9/10"},
        {"no_length": True},
    ],
    ids=lambda fault: "-".join(fault),
)
def test_a_server_that_does_not_give_parts_leaves_it_for_later(
    hub: HubServer, large: str, fault: dict[str, Any]
) -> None:
    hub.faults.__dict__.update(fault)
    assert ask(hub, large) is None
    assert hub.body_bytes < 2 * len(LARGE)
    hub.faults.clear()
    assert right(fetch(hub, large), "large.gguf", LARGE)


@pytest.mark.reliability("F-07")
def test_a_disk_without_room_is_not_written_to(
    hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(LARGE)))
    assert ask(hub) is None
    assert hub.body_bytes == 0
    assert parts(home) == []


@pytest.mark.reliability("F-07")
def test_a_disk_that_fills_up_leaves_it_for_later(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(transfer_content.os, "pwrite", full)
    assert ask(hub) is None
    monkeypatch.undo()


def test_what_is_in_the_hubs_cache_is_read_there(hub: HubServer) -> None:
    path = hf_hub_download("org/large", NAME, endpoint=hub.url, token=False)
    cached = Path(path).resolve()
    assert constants.HF_HUB_CACHE in str(cached)
    hub.reset_counts()
    assert ask(hub) is not None
    assert right(fetch(hub, "org/large"), NAME, LARGE)
    assert hub.body_bytes == 0
    assert cached.read_bytes() == LARGE


def test_a_question_writes_nothing(hub: HubServer, home: Path) -> None:
    options = DownloadOptions(hub_endpoint=hub.url)
    assert facts_of_remote(*offered(parse_ref("org/large"), options), options) == ask(hub)
    shutil.rmtree(home)
    facts_of_remote(*offered(parse_ref("org/large"), options), options)
    assert not home.exists()


WHOLE = headed_gguf(HEADER, 36 * MB)


@pytest.fixture
def whole(hub: HubServer) -> None:
    hub.add_repo("org/whole", {NAME: WHOLE})


@pytest.mark.reliability("F-09")
@pytest.mark.parametrize("count", [1, 8])
def test_commands_at_once_cost_one_copy(
    hub: HubServer, home: Path, whole: None, count: int
) -> None:
    running = [start_command("org/whole", environment(home, hub.url)) for _ in range(count)]
    ended = [end(process, 60.0) for process in running]
    assert {each.status for each in ended} == {0}, ended
    assert hub.body_bytes <= 1.05 * len(WHOLE)
    assert len({each.last["tag"] for each in ended}) == 1


@pytest.mark.reliability("F-08")
@pytest.mark.parametrize("when", [HEADER // 2, HEADER + MB, 20 * MB])
def test_a_killed_command_goes_on_where_it_was(
    hub: HubServer, home: Path, whole: None, when: int
) -> None:
    hub.faults.rate = 20 * MB
    process = start_command("org/whole", environment(home, hub.url))
    wait_until(lambda: hub.body_bytes >= when)
    process.send_signal(signal.SIGKILL)
    end(process)
    hub.faults.clear()
    assert end(start_command("org/whole", environment(home, hub.url)), 60.0).status == 0
    assert hub.body_bytes <= len(WHOLE) + 8 * MB
