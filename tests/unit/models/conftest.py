"""A store of its own, and a hub on loopback with one small model, for whoever asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import HubServer
from tests.unit.models.pulls import FILES


@pytest.fixture
def no_hub_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a token nor an endpoint is set, in the environment or on the disk; no file cached."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def home(tmp_path: Path, no_hub_settings: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def hub(home: Path) -> Iterator[HubServer]:
    """A hub that has `FILES` as org/tiny."""
    with HubServer({"org/tiny": FILES}) as server:
        yield server
