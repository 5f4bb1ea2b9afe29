"""The hub of the tests speaks the real protocol: the hub's own client gets files from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import hf_hub_download, snapshot_download

from tests.hub_server import HubServer
from tests.unit.models.pulls import FILES, MB

LARGE = "model.safetensors"


@pytest.mark.parametrize(
    ("faults", "asked"),
    [
        ({}, 1),
        ({"redirect": True}, 1),
        ({"redirect": True, "only": LARGE, "close_after": MB, "times": 1}, 2),
    ],
    ids=["well", "redirected", "redirected and broken off"],
)
def test_the_real_client_gets_a_file_intact(
    hub: HubServer, tmp_path: Path, faults: dict[str, Any], asked: int
) -> None:
    commit = hub.repos["org/tiny"].refs["main"]
    for fault, value in faults.items():
        setattr(hub.faults, fault, value)
    cache = tmp_path / "cache"
    for name, content in FILES.items():
        path = hf_hub_download("org/tiny", name, endpoint=hub.url, cache_dir=cache, token=False)
        assert Path(path).read_bytes() == content
        assert Path(path).parent.name == commit
    assert len(hub.asked(LARGE)) == asked
    assert any(each.door == "cdn" for each in hub.asked(LARGE)) == ("redirect" in faults)


def test_the_real_client_gets_a_whole_repository(hub: HubServer, tmp_path: Path) -> None:
    files = {**FILES, "1_Pooling/config.json": b"{}"}
    commit = hub.add_repo("org/tiny", files)
    folder = snapshot_download(
        "org/tiny", endpoint=hub.url, cache_dir=tmp_path / "cache", token=False
    )
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }
    assert (Path(folder).name, found) == (commit, files)
