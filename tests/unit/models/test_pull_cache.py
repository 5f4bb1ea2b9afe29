"""What the hub's own client has downloaded is not downloaded again."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download

from tests.hub_server import HubServer
from tests.unit.models.pulls import FILES, SIZE, WEIGHTS, fetch, right

pytestmark = pytest.mark.reliability("F-09")
LARGE = "model.safetensors"


@pytest.fixture
def cached(hub: HubServer) -> Path:
    """The weights in the cache of the hub's own client, which has fetched the whole model."""
    paths = {
        name: hf_hub_download("org/tiny", name, endpoint=hub.url, token=False) for name in FILES
    }
    hub.reset_counts()
    found = Path(paths[LARGE]).resolve()
    assert constants.HF_HUB_CACHE in str(found)
    return found


def test_cached_files_are_linked(hub: HubServer, cached: Path) -> None:
    os.utime(cached, (1, 1))
    model = fetch(hub)
    assert cached.stat().st_mtime == 1  # Whoever has it loaded need not read it again.
    assert right(model)
    assert hub.body_bytes == 0
    assert Path(model.folder, LARGE).samefile(cached)
    cached.unlink()
    assert right(model)


def test_what_is_damaged_is_fetched_and_stays_as_it_was(hub: HubServer, cached: Path) -> None:
    damaged = bytes([WEIGHTS[0] ^ 1]) + WEIGHTS[1:]
    cached.write_bytes(damaged)
    assert right(fetch(hub))
    assert hub.body_bytes == len(WEIGHTS)
    assert cached.read_bytes() == damaged


@pytest.mark.parametrize("content", [WEIGHTS[:-1], WEIGHTS + b"x", b""])
def test_what_has_another_length_is_left_alone(
    hub: HubServer, cached: Path, content: bytes
) -> None:
    cached.write_bytes(content)
    assert right(fetch(hub))
    assert hub.body_bytes == len(WEIGHTS)
    assert cached.read_bytes() == content


def test_a_cache_on_another_disk_is_not_used(
    hub: HubServer, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def refuse(source: Path, target: Path) -> None:
        if constants.HF_HUB_CACHE in str(source):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        link(source, target)

    monkeypatch.setattr("openllm.models.pull_cache.os.link", refuse)
    assert right(fetch(hub))
    assert hub.body_bytes == SIZE
