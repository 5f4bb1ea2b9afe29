"""What `collect` removes, and what it never does."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from openllm.models import store
from openllm.models.store import StoredModel
from tests.unit.models.store_models import COMMIT, added, downloaded, used_at

DAY = 24 * 60 * 60


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    return tmp_path


def models(count: int, **options: str) -> list[StoredModel]:
    """Store models of 1000 bytes; the first was used longest ago."""
    made = []
    for number in range(count):
        name = f"llamacpp-m{number}"
        contents = {"m.gguf": bytes([number]) * 1000}
        model = added(name, contents=contents, **{"source": f"org/m{number}", **options})
        used_at(model, 1_000_000_000 + number)
        made.append(model)
    return made


def tags() -> set[str]:
    return {model.tag for model in store.stored()}


def test_without_a_quota_no_model_is_removed() -> None:
    made = models(2)
    collected = store.collect()
    assert (collected.models, collected.folders, collected.freed) == ((), (), 0)
    assert collected.used == 2000
    assert tags() == {model.tag for model in made}


@pytest.mark.parametrize(
    ("quota", "gone"), [(3000, 0), (2999, 1), (2000, 1), (1999, 2), (1, 3), (0, 3)]
)
def test_the_least_recently_used_go_first(quota: int, gone: int) -> None:
    made = models(3)
    store.touch(made[0])
    order = [made[1], made[2], made[0]]
    for dry_run in (True, False):
        collected = store.collect(quota=quota, dry_run=dry_run)
        assert [model.tag for model in collected.models] == [model.tag for model in order[:gone]]
        assert (collected.freed, collected.used) == (1000 * gone, 3000 - 1000 * gone)
        assert len(tags()) == (3 if dry_run else 3 - gone)
    assert tags() == {model.tag for model in order[gone:]}


def test_a_quota_that_nothing_can_reach_removes_nothing() -> None:
    made = models(2)
    assert store.collect(quota=-1).used == 2000
    assert tags() == {model.tag for model in made}


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_is_in_use_stays(dry_run: bool) -> None:
    held, free = models(2)
    holding = store.hold(held)
    collected = store.collect(quota=0, dry_run=dry_run)
    assert [model.tag for model in collected.models] == [free.tag]
    assert collected.used == 1000
    holding.close()
    assert store.collect(quota=0).used == 0


def test_what_cannot_be_downloaded_again_stays(home: Path) -> None:
    (local,) = models(1, source="/home/me/model.gguf")
    downloaded(
        home / "models" / "theirs" / "1",
        {"model.yaml": b"creation_time: '2024-01-01T00:00:00'\n", "m.gguf": b"x" * 10},
    )
    url = added("llamacpp-u", contents={"u.gguf": b"u"}, source="https://h/u.gguf", revision="")
    collected = store.collect(quota=0)
    assert [model.tag for model in collected.models] == [url.tag]
    assert tags() == {local.tag, "theirs:1"}
    assert collected.used == 1010


def test_a_file_of_two_models_counts_once() -> None:
    model = added("pt-org--model")
    twin = store.add(model.folder, model, name="vllm-org--model", version=COMMIT)
    used_at(model, 1_000_000_000)
    assert store.collect(quota=model.size).used == model.size
    assert tags() == {model.tag, twin.tag}
    collected = store.collect(quota=model.size - 1)
    assert [each.tag for each in collected.models] == [model.tag, twin.tag]
    assert (collected.freed, collected.used) == (model.size, 0)


def aged(folder: Path, seconds: float) -> Path:
    moment = time.time() - seconds
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (moment, moment))
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    with open(store.lock_of(folder), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_an_interrupted_download_is_swept_after_a_day() -> None:
    partial = {"m.gguf.part": b"p" * 100, "sub/x": b"x", ".begun": b""}
    fresh = aged(downloaded(store.staging("a/fresh", COMMIT), partial), DAY - 60)
    old = aged(downloaded(store.staging("a/old", COMMIT), partial), DAY + 60)
    running = aged(downloaded(store.staging("a/running", COMMIT), partial), DAY + 60)
    growing = aged(downloaded(store.staging("a/growing", COMMIT), partial), DAY + 60)
    (growing / "sub" / "x").write_bytes(b"new")
    store.lock_of(old).touch()
    with locked(running):
        assert store.collect(dry_run=True).folders == (str(old),)
        assert old.exists()
        collected = store.collect()
    assert (collected.folders, collected.freed) == ((str(old),), 101)
    assert not old.exists()
    assert not store.lock_of(old).exists()
    assert fresh.exists()
    assert running.exists()
    assert growing.exists()
    assert store.collect().folders == (str(running),)


@pytest.mark.reliability("S-28")
def test_the_folder_of_a_download_stays_in_the_store(home: Path) -> None:
    hostile = ["../../x", "/etc", "a\0b", "~", "..", "", "x" * 300, "-rf", "CON", "a\u202eb", "é"]
    twins = ["Org/Name", "org/name", "org-name", "e\u0301", "org/name."]
    folders = {store.staging(text, COMMIT, text) for text in hostile + twins}
    assert len(folders) == len(hostile + twins)
    assert {folder.parent for folder in folders} == {home / "openllm" / "downloads"}
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)
    assert store.staging("a/b", "1", "f") != store.staging("a/b", "2", "f")
    assert store.staging("a/b", "1", "f") == store.staging("a/b", "1", "f")
