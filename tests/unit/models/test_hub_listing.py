"""Listings of a hub: read as the hub's own library reads them, bounded, and never trusted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import HfApi

from openllm.config.download import DownloadOptions
from openllm.errors import (
    ConfigurationError,
    ModelFetchError,
    ModelFileError,
    ModelNotFoundError,
    OpenLLMError,
)
from openllm.models.hub import RemoteModel, inspect
from openllm.models.hub_files import wanted
from openllm.models.ref import parse_ref
from tests.hostile_names import HOSTILE
from tests.hub_server import HubServer

FILES = {"config.json": b"{}", "model.safetensors": bytes(1000), "README.md": b"x"}


@pytest.fixture
def hub(no_hub_settings: None) -> Iterator[HubServer]:
    with HubServer({"org/tiny": FILES}) as server:
        yield server


def look(hub: HubServer, text: str = "org/tiny", **options: Any) -> RemoteModel:
    usual: dict[str, Any] = {
        "hub_endpoint": hub.url, "download_retries": 1, "download_timeout": 1.0,
    }  # fmt: skip
    return inspect(parse_ref(text), DownloadOptions(**usual | options))


def names(hub: HubServer, files: dict[str, bytes], file: str = "") -> set[str]:
    hub.add_repo("org/other", files)
    return {one.name for one in wanted(look(hub, "org/other"), file)}


def test_a_listing_is_what_the_hubs_own_library_reads(hub: HubServer) -> None:
    theirs = HfApi(endpoint=hub.url, token=False).model_info("org/tiny", files_metadata=True)
    ours = look(hub)
    assert ours.commit == theirs.sha
    assert theirs.siblings is not None
    assert [(one.name, one.size, one.sha256) for one in ours.files] == [
        (one.rfilename, one.size, one.lfs.sha256 if one.lfs else "") for one in theirs.siblings
    ]
    blobs = {one.rfilename: one.blob_id for one in theirs.siblings if not one.lfs}
    assert {one.name: one.blob for one in ours.files if one.blob} == blobs


@pytest.mark.spec("S2-21")
def test_a_revision_is_resolved_to_its_commit(hub: HubServer) -> None:
    first = look(hub).commit
    second = hub.add_repo("org/tiny", {**FILES, "extra.json": b"[]"}, "refs/pr/1")
    assert look(hub, "org/tiny@refs/pr/1").commit == second != first
    for revision in ("main", first, first[:8]):
        assert look(hub, f"org/tiny@{revision}").commit == first
    assert all(f"/resolve/{first}/" in one.url for one in look(hub).files)


@pytest.mark.parametrize("text", ["org/none", "org/tiny@v9"])
def test_what_is_not_there_is_named(hub: HubServer, text: str) -> None:
    with pytest.raises((ModelNotFoundError, ModelFetchError), match=r"org/(none|tiny@v9)"):
        look(hub, text)
    assert len(hub.requests) == 1


def test_a_gated_model_says_what_to_do(hub: HubServer) -> None:
    hub.add_repo("org/gated", FILES, gated=True)
    with pytest.raises(ModelFetchError, match="HF_TOKEN"):
        look(hub, "org/gated")
    assert look(hub, "org/gated", hub_token="hf_good").files


@pytest.mark.parametrize("by", ["option", "environment"])
def test_offline_asks_nobody(hub: HubServer, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigurationError, match="offline"):
        look(hub, offline=by == "option")
    assert hub.requests == []


def test_the_endpoint_of_the_environment_is_the_mirror(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
    assert inspect(parse_ref("org/tiny"), DownloadOptions()).files[0].url.startswith(hub.url)
    monkeypatch.setenv("HF_ENDPOINT", "nonsense")
    with pytest.raises(OpenLLMError, match="HF_ENDPOINT"):
        inspect(parse_ref("org/tiny"), DownloadOptions())


def test_a_hub_that_is_away_is_named(hub: HubServer) -> None:
    with pytest.raises(ModelFetchError, match=r"^127\.0\.0\.1:9 cannot be reached"):
        look(hub, hub_endpoint="http://127.0.0.1:9")


@pytest.mark.reliability("S-30")
@pytest.mark.parametrize(
    "fault",
    [
        {"listing": b"{"},
        {"listing": b"[" * 100_000},
        {"listing": b'{"sha": 5, "siblings": []}'},
        {"listing": b'{"sha": "../../x", "siblings": []}'},
        {"listing": b'{"sha": "' + b"a" * 40 + b'", "siblings": [{"rfilename": 7}]}'},
        {"listing": b"\xff\xfe"},
        {"listing_endless": True},
        {"listing_gzip_bomb": True},
        {"listing_files": 1_000_000},
        {"listing_stall": True},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_a_listing_that_is_none_ends_in_an_error_of_ours(
    hub: HubServer, fault: dict[str, Any]
) -> None:
    hub.faults.__dict__.update(fault)
    began = time.monotonic()
    with pytest.raises(ModelFetchError):
        look(hub, download_timeout=0.3)
    assert time.monotonic() - began < 30.0


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again_when_it_says(hub: HubServer, status: int) -> None:
    hub.faults.listing_status, hub.faults.listing_times = status, 1
    hub.faults.retry_after = "1"
    began = time.monotonic()
    assert look(hub).files
    assert time.monotonic() - began >= 1.0
    assert len(hub.requests) == 2


@pytest.mark.reliability("S-28")
def test_no_hostile_name_is_ever_to_be_downloaded(hub: HubServer) -> None:
    hub.faults.listing_names = (
        *(f"{name}.json" for name in HOSTILE if name.isprintable()),
        "../../outside.json", "/etc/outside.json", "a/../../outside.json", "..\\outside.json",
        "C:\\outside.json", "x\0.json", ".json", "./x.json", "a//b.json", "x" * 300 + ".json",
        "\u202egnp.json", "model.yaml",
    )  # fmt: skip
    found = wanted(look(hub))
    for one in found:
        assert "/" not in one.name.removeprefix("1_Pooling/")
        assert not {"", ".", ".."} & set(one.name.split("/"))
        assert one.name.isprintable()
        assert "\\" not in one.name
        assert len(one.name.encode()) <= 255


def test_a_name_that_is_listed_twice_is_one_file(hub: HubServer) -> None:
    hub.faults.listing_names = ("config.json",)
    assert sorted(one.name for one in wanted(look(hub))) == ["config.json", "model.safetensors"]


@pytest.mark.reliability("S-22")
def test_pickles_and_duplicates_are_never_wanted(hub: HubServer) -> None:
    files = {
        **FILES,
        "pytorch_model.bin": b"x",
        "model.pt": b"x",
        "original/consolidated.safetensors": b"x",
        "consolidated.safetensors": b"x",
        "onnx/model.onnx": b"x",
        "tokenizer.json": b"{}",
        "tokenizer.model": b"x",
        "chat_template.jinja": b"x",
    }
    assert names(hub, files) == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer.model",
        "chat_template.jinja",
    }  # fmt: skip
    with pytest.raises(ModelFileError, match="pickle"):
        names(hub, {"config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(ModelFileError, match="no model"):
        names(hub, {"README.md": b"x"})


def test_one_gguf_file_is_taken_with_its_shards(hub: HubServer) -> None:
    many = {
        "a-Q4_K_M.gguf": b"1", "a-Q4_K_S.gguf": b"2", "mmproj-a.gguf": b"5",
        "big/a-Q8_0-00001-of-00002.gguf": b"3", "big/a-Q8_0-00002-of-00002.gguf": b"4",
    }  # fmt: skip
    assert names(hub, many, "Q4_K_M") == {"a-Q4_K_M.gguf"}
    assert names(hub, many, "a-Q4_K_S.gguf") == {"a-Q4_K_S.gguf"}
    both = {"big/a-Q8_0-00001-of-00002.gguf", "big/a-Q8_0-00002-of-00002.gguf"}
    assert names(hub, many, "q8_0") == both
    assert names(hub, many, "big/a-Q8_0-00001-of-00002.gguf") == both
    with pytest.raises(ModelFileError, match="choose one"):
        names(hub, many)
    with pytest.raises(ModelNotFoundError, match=r"a-Q4_K_M\.gguf"):
        names(hub, many, "Q2_K")
    assert names(hub, {"only.gguf": b"1", "mmproj-x.gguf": b"2"}) == {"only.gguf"}
