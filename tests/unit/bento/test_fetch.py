"""Models of one command: none of them makes room for another."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from openllm.bento.checks import fetch, fetch_each
from openllm.bento.options import read_configuration
from openllm.errors import ModelFetchError
from openllm.models.store import stored
from tests.hub_server import HubServer, use_hub
from tests.unit.models.store_models import used_at

WEIGHTS = files("openllm").joinpath("demo", "demo-q8_0.gguf").read_bytes()
SIZE = len(WEIGHTS)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    repos = {f"org/{name}": {f"{name}.gguf": WEIGHTS} for name in ("one", "two", "three")}
    with HubServer(repos) as server:
        use_hub(server.url, tmp_path, monkeypatch)
        yield server


def sources() -> list[str]:
    return sorted(model.source for model in stored())


def fetched(text: str, **options: Any) -> list[str]:
    return [model.name for model in fetch(read_configuration(text, options, {}))]


@pytest.mark.parametrize("first", [None, "org/one", "org/two"])
def test_a_quota_that_cannot_hold_all_is_told(hub: HubServer, first: str | None) -> None:
    if first:
        fetched(first)
    with pytest.raises(ModelFetchError, match="--store-quota") as raised:
        fetched("org/one,org/two", store_quota=SIZE)
    wanting = "org/one" if first == "org/two" else "org/two"
    assert raised.value.message.startswith(f"{wanting} needs ")
    assert "wanted by the same command" in raised.value.message
    assert sources() == [first or "org/one"]


def test_what_the_command_does_not_want_makes_room(hub: HubServer) -> None:
    fetched("org/one")
    fetched("org/two")
    for model in stored():
        used_at(model, 1_000_000_000 if model.source == "org/one" else 2_000_000_000)
    assert fetched("org/one,org/three", store_quota=2 * SIZE) == ["one", "three"]
    assert sources() == ["org/one", "org/three"]


def test_nothing_makes_room_in_vain(hub: HubServer) -> None:
    fetched("org/one")
    with pytest.raises(ModelFetchError, match="--store-quota"):
        fetched("org/two", store_quota=SIZE - 1)
    with pytest.raises(ModelFetchError, match="--store-quota"):
        fetched("org/two,org/three", store_quota=SIZE)
    assert sources() == ["org/two"]


def test_once_all_are_here_they_may_go(hub: HubServer) -> None:
    each = fetch_each(read_configuration("org/one,org/two", {}, {}))
    assert next(each).name == "one"
    with pytest.raises(ModelFetchError, match="in use"):
        fetched("org/three", store_quota=SIZE)
    assert [model.name for model in each] == ["two"]
    fetched("org/three", store_quota=SIZE)
    assert sources() == ["org/three"]
