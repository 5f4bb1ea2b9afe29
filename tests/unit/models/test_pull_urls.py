"""Files by their URLs, from servers that tell more or less of them."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from openllm.config.download import DownloadOptions
from openllm.errors import (
    ConfigurationError,
    ModelFetchError,
    ModelNotFoundError,
    OpenLLMError,
)
from openllm.models import store, transfer_http
from openllm.models.pull import Progress
from openllm.models.ref import parse_ref, shown_source
from openllm.models.transfer_http import Session, measure
from tests.hub_server import HubServer
from tests.unit.models.pulls import FILES, GGUF, MB, SIZE, fetch, gguf, right


@pytest.mark.spec("S1-40")
def test_a_url_is_stored_by_the_hash_of_its_content(hub: HubServer) -> None:
    url = hub.add_file("files/some-model.gguf", GGUF)
    model = fetch(hub, url)
    assert model.tag == f"pt-some-model:{hashlib.sha256(GGUF).hexdigest()[:16]}"
    assert model.source == url
    assert right(model, "some-model.gguf")


@pytest.mark.spec("S0-08")
def test_urls_of_one_content_are_one_model_that_both_find(hub: HubServer) -> None:
    urls = [hub.add_file(f"{each}/m.gguf", GGUF) for each in ("first", "second")]
    model = fetch(hub, urls[0])
    assert store.find(urls[1]) is None
    assert fetch(hub, urls[1]).tag == model.tag
    assert [each.tag for each in store.stored()] == [model.tag]
    hub.add_file("second/m.gguf", gguf(len(GGUF), 2))
    other = fetch(hub, urls[1])
    assert other.tag != model.tag
    found = [store.find(url) for url in urls]
    assert [each and each.tag for each in found] == [model.tag, other.tag]
    hub.add_file("second/m.gguf", GGUF)
    fetch(hub, urls[1])
    found = [store.find(url) for url in urls]
    assert [each and each.tag for each in found] == [model.tag, model.tag]


def test_a_branch_is_not_taken_for_a_repository(hub: HubServer) -> None:
    hub.add_repo("org/tiny", {**FILES, "x.json": b"1"}, "other/name")
    fetch(hub, "org/tiny@other/name")
    assert store.find("org/tiny", "other/name") is not None
    assert store.find("other/name") is None


@pytest.mark.reliability("F-08", "F-13")
def test_a_file_that_was_complete_once_is_not_added_to(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    url = hub.add_file("files/x.gguf", GGUF)
    with monkeypatch.context() as patch:
        patch.setattr(store, "add", full)
        with pytest.raises(ModelFetchError, match="No space left"):
            fetch(hub, url)
    other = gguf(len(GGUF) + MB, 2)
    hub.add_file("files/x.gguf", other)
    assert right(fetch(hub, url), "x.gguf", other)


@pytest.mark.reliability("F-08")
@pytest.mark.parametrize("date", ["", "Sat, 01 Jan 2000 00:00:00 GMT"])
def test_without_an_etag_the_time_of_change_identifies_a_content(hub: HubServer, date: str) -> None:
    url = hub.add_file("files/x.gguf", GGUF)
    hub.faults.no_etag, hub.faults.last_modified = True, date
    hub.faults.reset_every = 2 * MB
    cancelled = threading.Event()

    def stop(progress: Progress) -> None:
        if progress.done >= MB:
            cancelled.set()

    def interrupted() -> None:
        cancelled.clear()
        hub.faults.reset_every, hub.faults.rate = 2 * MB, MB
        with pytest.raises(ModelFetchError):
            fetch(hub, url, on_progress=stop, cancelled=cancelled)
        hub.faults.reset_every = hub.faults.rate = None
        hub.reset_counts()

    interrupted()
    assert right(fetch(hub, url), "x.gguf")
    assert (hub.body_bytes < len(GGUF)) == bool(date)
    interrupted()
    other = gguf(len(GGUF), 2)
    hub.add_file("files/x.gguf", other)
    hub.faults.last_modified = date.replace("2000", "2001")
    assert right(fetch(hub, url), "x.gguf", other)


@pytest.mark.reliability("F-08")
def test_a_url_whose_content_changes_meanwhile_is_never_mixed(hub: HubServer) -> None:
    url = hub.add_file("files/x.gguf", GGUF)
    other = gguf(len(GGUF), 2)
    hub.faults.close_after = MB

    def change(progress: Progress) -> None:
        if progress.done > 0:
            hub.add_file("files/x.gguf", other)

    with pytest.raises(ModelFetchError):
        fetch(hub, url, on_progress=change)
    hub.faults.clear()
    assert right(fetch(hub, url), "x.gguf", other)


@pytest.mark.reliability("S-30")
def test_a_url_without_a_length_is_bounded_by_the_disk(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = hub.add_file("files/x.gguf", b"GGUF" + bytes(100))
    usage = shutil.disk_usage("/")
    few = usage._replace(free=40 * MB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: few)
    hub.faults.endless = True
    with pytest.raises(ModelFetchError):
        fetch(hub, url)
    assert hub.body_bytes < 60 * MB


@pytest.mark.spec("S3-09")
@pytest.mark.parametrize("status", [403, 404, 405, 501])
def test_a_server_without_head_is_asked_for_the_first_byte(hub: HubServer, status: int) -> None:
    url = hub.add_file("files/x.gguf", GGUF)
    hub.faults.head_status = status
    seen: list[Progress] = []
    assert right(fetch(hub, url, on_progress=seen.append), "x.gguf")
    assert hub.body_bytes == len(GGUF) + 1
    assert {each.total for each in seen if each.phase == "downloading"} == {len(GGUF)}


def test_what_is_not_there_is_said_by_the_answer_to_get(hub: HubServer) -> None:
    with pytest.raises(ModelNotFoundError, match=r"files/none\.gguf"):
        fetch(hub, f"{hub.url}/files/none.gguf")
    assert [each.method for each in hub.requests] == ["HEAD", "GET"]


@pytest.mark.parametrize(
    "fault",
    [{}, {"ignore_range": True}, {"no_etag": True}, {"reset_every": MB, "times": 2}],
    ids=lambda fault: "-".join(fault) or "none",
)
def test_a_file_whose_length_nobody_tells(hub: HubServer, fault: dict[str, Any]) -> None:
    url = hub.add_file("files/x.gguf", GGUF)
    hub.faults.__dict__.update({"no_length": True, **fault})
    seen: list[Progress] = []
    assert right(fetch(hub, url, on_progress=seen.append), "x.gguf")
    assert {each.total for each in seen if each.phase == "downloading"} == {0}
    assert seen[-1].total == len(GGUF)


@pytest.mark.reliability("F-08")
def test_what_is_left_of_a_file_that_nothing_identifies_is_not_gone_on_with(hub: HubServer) -> None:
    url = hub.add_file("files/x.gguf", GGUF)
    hub.faults.no_length = hub.faults.no_etag = True
    hub.faults.reset_every = 2 * MB
    with pytest.raises(ModelFetchError):
        fetch(hub, url, download_retries=0)
    hub.faults.reset_every = None
    other = gguf(len(GGUF), 2)
    hub.add_file("files/x.gguf", other)
    assert right(fetch(hub, url), "x.gguf", other)


@pytest.mark.reliability("F-07", "S-30")
def test_a_file_without_a_length_leaves_room_on_the_disk(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = hub.add_file("files/x.gguf", b"GGUF" + bytes(100))
    hub.faults.no_length = hub.faults.endless = True
    usage = shutil.disk_usage("/")

    def filling(folder: Path) -> Any:
        here = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
        return usage._replace(free=64 * MB - here)

    monkeypatch.setattr(shutil, "disk_usage", filling)
    with pytest.raises(ModelFetchError, match="free"):
        fetch(hub, url)
    assert store.stored() == ()
    assert hub.body_bytes < 64 * MB


@pytest.mark.reliability("F-07", "S-30")
def test_a_file_without_a_length_stays_within_the_quota(hub: HubServer) -> None:
    url = hub.add_file("files/x.gguf", b"GGUF" + bytes(100))
    hub.faults.no_length = hub.faults.endless = True
    with pytest.raises(ModelFetchError, match="quota"):
        fetch(hub, url, store_quota=24 * MB)
    assert hub.body_bytes < 64 * MB


def test_lengths_that_a_listing_leaves_out_are_asked_for(hub: HubServer) -> None:
    hub.faults.listing_without_hashes = True
    seen: list[Progress] = []
    assert right(fetch(hub, on_progress=seen.append))
    assert {each.total for each in seen if each.phase == "downloading"} == {SIZE}


@pytest.mark.reliability("S-30")
@pytest.mark.parametrize("length", ["-1", "\u00b2", "1e3", "9" * 5000, "", "0x10", "7, 7"])
def test_a_length_that_is_none_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, home: Path, length: str
) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        part = [(b"content-range", b"bytes 0-0/" + length.encode("latin-1"))]
        whole = [(b"content-length", length.encode("latin-1"))]
        get = request.method == "GET"
        return httpx2.Response(206 if get else 200, headers=part if get else whole)

    transport = httpx2.MockTransport(answer)
    monkeypatch.setattr(transfer_http.httpx2, "Client", partial(httpx2.Client, transport=transport))
    with Session(DownloadOptions(download_retries=0), "http://host") as session:
        assert measure(session, "http://host/x.gguf") == (-1, "")


@pytest.mark.parametrize("wait", ["\u00b2", "9" * 5000, "soon", "-5"])
def test_a_wait_that_is_none_is_not_kept(hub: HubServer, wait: str) -> None:
    hub.faults.listing_status, hub.faults.listing_times = 503, 1
    hub.faults.retry_after = wait
    assert right(fetch(hub))


def test_what_may_be_secret_in_a_url_is_in_no_report_and_no_error(hub: HubServer) -> None:
    url = hub.add_file("m.gguf", GGUF) + "?token=SECRET"
    seen: list[Progress] = []
    model = fetch(hub, url, seen.append)
    assert {each.source for each in seen} == {f"{hub.url}/m.gguf?..."}
    found = store.find(url)
    assert found is not None
    assert found.tag == model.tag
    assert "SECRET" not in store.remedy(model)
    for text, options in ((url + "2", {"offline": True}), (url, {"store_quota": 1})):
        store.remove_unused(model)
        with pytest.raises(OpenLLMError) as failure:
            fetch(hub, text, **options)
        assert "SECRET" not in failure.value.message
        assert f"{hub.url}/m.gguf?..." in failure.value.message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/m.gguf?token=SECRET&x=1", "https://host/m.gguf?..."),
        ("mine=https://host:8/m.gguf?a?b", "mine=https://host:8/m.gguf?..."),
        ("https://user:SECRET@host/m.gguf", "https://host/m.gguf"),
        ("https://host/m.gguf#SECRET", "https://host/m.gguf?..."),
        ("https://host/a@b.gguf", "https://host/a@b.gguf"),
        ("org/name@main:file.gguf", "org/name@main:file.gguf"),
        ("./what?.gguf", "./what?.gguf"),
    ],
)
def test_a_models_text_is_shown_without_secrets(text: str, shown: str) -> None:
    assert shown_source(text) == shown
    if "SECRET" in text:
        with pytest.raises(ConfigurationError) as failure:
            parse_ref(f" {text}")
        assert "SECRET" not in failure.value.message
