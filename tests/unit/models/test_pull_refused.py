"""Of a model that is refused nothing is left; of one that was interrupted, what arrived."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

from openllm.config.download import DownloadOptions
from openllm.errors import (
    ConfigurationError,
    EngineNotInstalledError,
    ModelFetchError,
    ModelFileError,
    OpenLLMError,
    OutOfMemoryError,
)
from openllm.models import facts_ahead as module
from openllm.models import store
from openllm.models.facts_ahead import facts_ahead
from openllm.models.offers import asked_once
from openllm.models.pull import pull
from openllm.models.ref import parse_ref
from openllm.models.store import StoredModel
from tests.hub_puller import end, environment, start
from tests.hub_server import HubServer
from tests.unit.models.pulls import FILES, MB, downloading, fetch, headed_gguf, right
from tests.waiting import wait_until

LARGE = headed_gguf(MB, 4 * MB)


@pytest.fixture(autouse=True)
def any_size(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_ASKING", 1)
    hub.add_repo("org/large", {"large-Q4_0.gguf": LARGE})


def left(home: Path) -> list[str]:
    """Return what lies in the folder of downloads."""
    return sorted(path.name for path in (home / "openllm" / "downloads").rglob("*"))


def refused(hub: HubServer, text: str = "org/tiny") -> StoredModel:
    def refuse(*_: object) -> str:
        raise ConfigurationError("no engine runs it")

    return pull(parse_ref(text), DownloadOptions(hub_endpoint=hub.url), framework=refuse)


def commanded(work: Callable[[], object]) -> None:
    """Do what one command does."""
    with asked_once():
        work()


def look(hub: HubServer, text: str = "org/large") -> None:
    assert facts_ahead(parse_ref(text), DownloadOptions(hub_endpoint=hub.url)) is not None


def test_of_what_no_engine_runs_nothing_is_left(hub: HubServer, home: Path) -> None:
    with pytest.raises(ConfigurationError, match="no engine"):
        refused(hub)
    assert hub.asked("config.json")
    assert left(home) == []


def test_of_what_has_no_room_nothing_is_left(
    hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelFetchError, match="quota"):
        fetch(hub, store_quota=MB)
    assert left(home) == []
    look(hub)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=MB))
    with pytest.raises(ModelFetchError, match="make room"):
        fetch(hub, "org/large", store_quota=100 * MB)
    assert left(home) == []


@pytest.mark.parametrize(
    "error", [OutOfMemoryError("it is too large"), EngineNotInstalledError("run: pip install")]
)
def test_what_was_read_to_look_at_a_refused_model_goes(
    hub: HubServer, home: Path, error: OpenLLMError
) -> None:
    def refuse() -> NoReturn:
        look(hub)
        assert left(home) != []
        raise error

    with pytest.raises(type(error)):
        commanded(refuse)
    assert left(home) == []


def test_a_header_that_is_none_is_not_kept(hub: HubServer, home: Path) -> None:
    hub.add_repo("org/page", {"x.gguf": b"<html>" + bytes(MB)})
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        commanded(lambda: look(hub, "org/page"))
    assert left(home) == []


@pytest.mark.reliability("F-08")
@pytest.mark.parametrize("error", [ModelFetchError("the network is away"), KeyboardInterrupt()])
def test_what_may_go_well_the_next_time_is_kept(
    hub: HubServer, home: Path, error: BaseException
) -> None:
    def break_off() -> NoReturn:
        look(hub)
        raise error

    with pytest.raises(type(error)):
        commanded(break_off)
    assert hub.body_bytes > 0
    assert right(fetch(hub, "org/large"), "large-Q4_0.gguf", LARGE)
    assert hub.body_bytes == len(LARGE)


@pytest.mark.reliability("F-08")
def test_a_refusal_leaves_what_an_interrupted_download_had(hub: HubServer, home: Path) -> None:
    hub.faults.only, hub.faults.rate = "model.safetensors", 4 * MB
    process = start("org/tiny", environment(home, hub.url))
    wait_until(lambda: hub.body_bytes >= 2 * MB)
    process.send_signal(signal.SIGKILL)
    end(process)
    hub.faults.clear()
    before = left(home)
    with pytest.raises(ConfigurationError):
        commanded(lambda: refused(hub))
    assert left(home) == before
    store.collect()
    assert left(home) == before
    hub.reset_counts()
    assert right(fetch(hub))
    assert hub.body_bytes < 2 * MB
    assert left(home) == []


def test_another_at_work_is_left_alone(hub: HubServer, home: Path) -> None:
    commit = hub.repos["org/large"].refs["main"]
    with ExitStack() as other:

        def refuse() -> NoReturn:
            look(hub)
            other.enter_context(downloading("org/large", commit))
            raise OutOfMemoryError("it is too large")

        with pytest.raises(OutOfMemoryError):
            commanded(refuse)
        store.collect(interrupted=True)
        assert len(left(home)) == 4  # The folder, its lock, the folder of parts, the part.


def test_what_others_look_at_stays(hub: HubServer, home: Path) -> None:
    look(hub)
    before = left(home)
    with pytest.raises(ConfigurationError):
        commanded(lambda: refused(hub))
    assert left(home) == before


def test_what_a_killed_look_left_goes_with_a_later_collection(hub: HubServer, home: Path) -> None:
    look(hub)
    before = left(home)
    assert store.collect().folders == ()
    moment = time.time() - store.SETTLED_SECONDS - 1
    for path in (home / "openllm" / "downloads").rglob("*"):
        os.utime(path, (moment, moment))
    assert len(store.collect(dry_run=True).folders) == 1
    assert left(home) == before
    assert len(store.collect().folders) == 1
    assert left(home) == []


def test_a_download_that_ends_leaves_no_lock(hub: HubServer, home: Path) -> None:
    fetch(hub)
    fetch(hub)
    assert left(home) == []
    hub.add_repo("org/junk", {**FILES, "model.safetensors": b"<html>"})
    with pytest.raises(ModelFileError):
        fetch(hub, "org/junk")
    assert os.listdir(home / "openllm" / "downloads") == []
