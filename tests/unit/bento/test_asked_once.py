"""A command asks a hub once what it offers, and goes by that from its checks to its download."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from openllm.bento import launch, preflight
from openllm.bento.options import read_configuration
from openllm.cli import main
from openllm.config.effective import Configuration
from openllm.errors import OutOfMemoryError
from openllm.models import offers
from openllm.models.facts_ahead import WORTH_ASKING
from openllm.models.store import stored
from tests.hub_server import HubServer, use_hub
from tests.unit.models.gguf_bytes import wide_model

CONTENT = wide_model(WORTH_ASKING + 1)
FILES = {"big-Q4_0.gguf": CONTENT}


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "free_memory", lambda: 4 << 40)
    monkeypatch.setattr(preflight, "free_cards", lambda: ())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer({"org/big": FILES}) as server:
        use_hub(server.url, tmp_path, monkeypatch)
        yield server


def configuration() -> Configuration:
    return read_configuration("org/big", {"port": 0}, {})


def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `openllm start` download its model, and end before that is served."""

    def full(*_: object, **__: object) -> None:
        raise OutOfMemoryError("all is here")

    monkeypatch.setattr(launch, "check_memory", full)
    with pytest.raises(OutOfMemoryError, match="all is here"):
        launch.run(configuration(), configuration)


@pytest.mark.parametrize("lengths", [True, False])
def test_start_asks_once(hub: HubServer, monkeypatch: pytest.MonkeyPatch, lengths: bool) -> None:
    hub.faults.listing_without_hashes = not lengths
    started(monkeypatch)
    assert len(hub.asked("/api/models/org/big")) == 1
    assert len(hub.asked("/resolve/", "HEAD")) == (0 if lengths else 1)
    assert len(stored()) == 1


def test_pull_asks_once(hub: HubServer) -> None:
    url = hub.add_file("files/own.gguf", CONTENT)
    done = CliRunner().invoke(main, ["pull", "org/big", url])
    assert done.exit_code == 0, done.output
    assert len(hub.asked("/api/models/org/big")) == 1
    assert len(hub.asked("/files/own.gguf", "HEAD")) == 1


def test_the_next_command_asks_again(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started(monkeypatch)
    commit = hub.add_repo("org/big", {"big-Q4_0.gguf": wide_model(WORTH_ASKING + 2)})
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "other"))
    started(monkeypatch)
    assert [model.revision for model in stored()] == [commit]


def test_what_was_checked_is_what_comes_though_the_branch_moves(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hub.repos["org/big"].refs["main"]
    check = launch.check_memory_ahead

    def moving(entries: object) -> bool:
        warned = check(entries)  # type: ignore[arg-type]
        hub.add_repo("org/big", {"big-Q4_0.gguf": wide_model(WORTH_ASKING + 2)})
        return warned

    monkeypatch.setattr(launch, "check_memory_ahead", moving)
    started(monkeypatch)
    assert [model.revision for model in stored()] == [first]
    assert offers._command.get() is None
