"""--sha256: what is downloaded, and what is in the store already, is the file that was meant."""

from __future__ import annotations

import hashlib

import pytest

import openllm
from openllm.config.download import DownloadOptions
from openllm.errors import ConfigurationError, ModelFetchError, ModelFileError
from openllm.llm.fetching import local_model
from openllm.models import store
from tests.hub_server import HubServer
from tests.unit.models.pulls import GGUF, WEIGHTS, fetch, right

DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
OTHER = "0" * 64


@pytest.mark.spec("S3-39")
def test_a_hash_that_is_pinned_must_be_the_files(hub: HubServer) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    with pytest.raises((ModelFileError, ModelFetchError), match="0" * 64):
        fetch(hub, sha256="0" * 64)
    assert hub.body_bytes == 0
    assert right(fetch(hub, sha256=digest.upper()))
    url = hub.add_file("files/x.gguf", GGUF)
    digest = hashlib.sha256(GGUF).hexdigest()
    with pytest.raises((ModelFileError, ModelFetchError), match="sha256"):
        fetch(hub, url, sha256="0" * 64)
    assert len(store.stored()) == 1
    assert right(fetch(hub, url, sha256=digest), "x.gguf")


@pytest.mark.spec("S3-39")
def test_a_pinned_hash_holds_for_what_is_stored_already(hub: HubServer) -> None:
    fetch(hub)
    with pytest.raises((ModelFileError, ModelFetchError), match="sha256"):
        fetch(hub, sha256="0" * 64)


@pytest.mark.spec("S3-39")
def test_a_hub_that_tells_no_hashes_does_not_hide_what_is_stored(hub: HubServer) -> None:
    fetch(hub)
    hub.faults.listing_without_hashes = True
    with pytest.raises(ModelFileError, match=f"{DIGEST}.*{OTHER}"):
        fetch(hub, sha256=OTHER)
    assert right(fetch(hub, sha256=DIGEST))


@pytest.mark.spec("S3-39")
def test_what_is_found_without_the_hub_is_checked_by_the_hash_that_was_recorded(
    hub: HubServer,
) -> None:
    url = hub.add_file("files/x.gguf", GGUF)
    fetch(hub, url)
    hub.reset_counts()
    digest = hashlib.sha256(GGUF).hexdigest()
    for asked in (digest, digest.upper()):
        assert local_model(url, DownloadOptions(sha256=asked)).source == url
    for use in (local_model, lambda text, options: openllm.LLM(text, download=options)):
        with pytest.raises(ModelFileError, match=f"{digest}.*{OTHER}.*openllm rm") as raised:
            use(url, DownloadOptions(sha256=OTHER))
        assert raised.value.param == "sha256"
    assert hub.requests == []


def test_a_hash_for_a_file_that_is_not_downloaded_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="sha256sum") as raised:
        local_model("demo", DownloadOptions(sha256=DIGEST))
    assert raised.value.param == "sha256"
