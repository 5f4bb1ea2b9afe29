"""The store on uneven ground: links in the place of folders, a disk that is full or read-only."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest

from openllm.errors import ConfigurationError
from openllm.llm.fetching import for_engine, store_as
from openllm.models import store
from openllm.models.locate import from_store
from openllm.models.ref import parse_ref
from openllm.models.store import StoredModel
from openllm.types import LocalModel
from tests.hub_server import HubServer
from tests.unit.models.pulls import fetch, right
from tests.unit.models.store_models import added


def here(model: StoredModel) -> LocalModel:
    return from_store(parse_ref("org/model"), model)


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing opened to be written, as in a file system that is mounted so."""
    real = os.open

    def refuse(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refuse)


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copy2", refuse)


@pytest.mark.reliability("F-07")
@pytest.mark.parametrize("ground", [read_only, full])
def test_what_cannot_be_stored_twice_is_loaded_as_it_is(
    home: Path, monkeypatch: pytest.MonkeyPatch, ground: Any
) -> None:
    model = added()
    ground(monkeypatch)
    assert for_engine(here(model), "vllm") == here(model)
    with pytest.raises(ConfigurationError, match=r"cannot be used: .*; set BENTOML_HOME"):
        store_as(here(model), model, "mine", "1")
    monkeypatch.undo()
    monkeypatch.setenv("BENTOML_HOME", str(home))
    assert [each.tag for each in store.stored()] == [model.tag]


def test_a_folder_that_was_moved_and_linked_is_a_model_that_can_be_removed(
    home: Path, tmp_path: Path
) -> None:
    model = added()
    elsewhere = Path(shutil.move(model.folder, tmp_path / "elsewhere"))
    os.symlink(elsewhere, model.folder)
    (found,) = store.stored()
    assert store.verify(found.tag) == ()
    holding = store.hold(found)
    assert not store.remove_unused(found)
    holding.close()
    assert store.remove_unused(found)
    assert store.stored() == ()
    assert (elsewhere / "config.json").exists()
    assert not list((home / "openllm").glob("openllm-incoming-*"))
    assert added().tag == model.tag


def test_a_home_and_models_that_are_links(
    tmp_path: Path, no_hub_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("real", "disk"):
        (tmp_path / name).mkdir()
    os.symlink(tmp_path / "real", tmp_path / "home")
    os.symlink(tmp_path / "disk", tmp_path / "real" / "models")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    model = added()
    assert store.verify(model.tag) == ()
    assert store.find_tag(model.tag) == model
    assert store.remove_unused(model)
    assert os.listdir(tmp_path / "disk") == []


def test_two_that_record_at_once_lose_nothing(home: Path) -> None:
    model = added()
    store.remember(model, ["v1"])
    assert store.remember(model, ["v2"]).refs == ("v1", "v2")
    os.utime(Path(model.folder, "config.json"))
    assert store.quick_check(model).refs == ("v1", "v2")
    (found,) = store.stored()
    assert found.refs == ("v1", "v2")
    assert store.quick_check(found) == found


def test_who_may_read_the_weights_is_for_the_umask_to_say(hub: HubServer, home: Path) -> None:
    before = os.umask(0o027)
    try:
        model = fetch(hub)
    finally:
        os.umask(before)
    assert right(model)
    assert Path(model.folder, "model.safetensors").stat().st_mode & 0o777 == 0o640
    assert (home / "openllm" / "downloads").stat().st_mode & 0o777 == 0o700
