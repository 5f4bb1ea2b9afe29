"""Damage on the disk is found, before a model is loaded and by `verify`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from openllm.errors import ModelFileError, ModelNotFoundError
from openllm.models import store, store_check
from openllm.models.store import StoredModel
from tests.unit.models.store_models import added

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"

Harm = Callable[[Path], None]


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredModel:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    return added()


def flip(folder: Path) -> None:
    content = bytearray((folder / FIRST).read_bytes())
    content[2500] ^= 1
    (folder / FIRST).write_bytes(content)


def truncate(folder: Path) -> None:
    os.truncate(folder / SECOND, 4999)


def swap(folder: Path) -> None:
    (folder / FIRST).rename(folder / "x")
    (folder / SECOND).rename(folder / FIRST)
    (folder / "x").rename(folder / SECOND)


def change_index(folder: Path) -> None:
    (folder / INDEX).write_text((folder / INDEX).read_text().replace("00001", "00002"))


def lose(folder: Path) -> None:
    (folder / FIRST).unlink()


def lengthen(folder: Path) -> None:
    with open(folder / FIRST, "ab") as file:
        file.write(b"1")


def replace_by_folder(folder: Path) -> None:
    (folder / FIRST).unlink()
    (folder / FIRST).mkdir()


HARMS: dict[Harm, set[str]] = {
    flip: {FIRST},
    truncate: {SECOND},
    swap: {FIRST, SECOND},
    change_index: {INDEX},
    lose: {FIRST},
    lengthen: {FIRST},
    replace_by_folder: {FIRST},
}


@pytest.mark.reliability("F-13")
@pytest.mark.parametrize("harm", HARMS)
def test_verify_finds_every_damage(model: StoredModel, harm: Harm) -> None:
    assert store.verify(model.tag) == ()
    harm(Path(model.folder))
    damages = store.verify(model.tag)
    assert {damage.file for damage in damages} == HARMS[harm]
    assert all(damage.expected != damage.found for damage in damages)


@pytest.mark.reliability("F-13")
@pytest.mark.parametrize("harm", HARMS)
def test_damage_is_found_before_loading(model: StoredModel, harm: Harm) -> None:
    assert store.quick_check(model) == model
    harm(Path(model.folder))
    with pytest.raises(ModelFileError, match=f"Run `openllm verify {model.tag}`") as caught:
        store.quick_check(model)
    assert any(file in str(caught.value) for file in HARMS[harm])


def test_a_bit_that_flips_without_a_trace_is_found_by_its_hash(model: StoredModel) -> None:
    path = Path(model.folder, FIRST)
    before = path.stat()
    flip(Path(model.folder))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    store.quick_check(model)
    (damage,) = store.verify(model.tag)
    assert damage.expected == f"sha256 {model.files[2].sha256}"
    assert damage.found.startswith("sha256 ")


def test_new_times_are_hashed_once_and_remembered(
    model: StoredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    sha256_of = store_check.sha256_of
    monkeypatch.setattr(
        store_check, "sha256_of", lambda path: hashed.append(path.name) or sha256_of(path)
    )
    os.utime(Path(model.folder, FIRST), (1, 1))
    renewed = store.quick_check(model)
    assert hashed == [FIRST]
    assert store.stored() == (renewed,)
    assert renewed.used == model.used
    store.quick_check(renewed)
    assert hashed == [FIRST]


def test_a_store_that_cannot_be_written_is_checked_all_the_same(
    model: StoredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("openllm.models.store_remember.write", refuse)
    os.utime(Path(model.folder, FIRST), (1, 1))
    assert store.quick_check(model).files[2].modified == 10**9
    assert store.stored() == (model,)
    flip(Path(model.folder))
    with pytest.raises(ModelFileError):
        store.quick_check(model)


def test_verify_of_an_unknown_model_says_so() -> None:
    with pytest.raises(ModelNotFoundError, match="no model x:1 in the store"):
        store.verify("x:1")
