"""BentoML itself reads what we store, and we what BentoML stores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from openllm.models import store
from tests.unit.models.store_models import COMMIT, SHARDS, added, downloaded

TAG = f"pt-org--model:{COMMIT}"


@pytest.fixture(autouse=True)
def bento(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """BentoML's model functions on a store of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # BentoML's own, of its dependencies.
        import bentoml.models
        from bentoml._internal.configuration.containers import BentoMLContainer
        from bentoml._internal.models import ModelStore

    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BENTOML_DO_NOT_TRACK", "True")
    (tmp_path / "home" / "models").mkdir(parents=True)
    BentoMLContainer.model_store.set(ModelStore(tmp_path / "home" / "models"))
    yield bentoml.models
    BentoMLContainer.model_store.reset()


@pytest.mark.spec("S1-40", "S4-26")
def test_bentoml_lists_and_gets_what_we_add(bento: Any) -> None:
    model = added()
    added(version="older")
    assert {str(each.tag) for each in bento.list()} == {TAG, "pt-org--model:older"}
    got = bento.get(TAG)
    assert got.path == model.folder
    assert got.info.creation_time == model.created
    assert got.info.metadata["openllm"]["source"] == "org/model"
    assert got.info.context.framework_name == "pt"
    assert bento.get("pt-org--model").tag.version == "older"
    assert bento.get("pt-org--model:0123").tag.version == COMMIT


def test_the_record_has_the_fields_that_bentoml_writes(bento: Any, tmp_path: Path) -> None:
    ours = yaml.safe_load(Path(added().folder, "model.yaml").read_text())
    theirs = yaml.safe_load(Path(_created("theirs:1").path, "model.yaml").read_text())
    assert list(ours) == list(theirs)
    assert {key: type(value) for key, value in ours.items()} == {
        key: type(value) for key, value in theirs.items()
    }
    assert ours["context"].keys() == theirs["context"].keys()


@pytest.mark.spec("S4-26")
def test_the_command_bentoml_models_list_shows_what_we_add() -> None:
    added()
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "models", "list", "-o", "json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "BENTOML_DO_NOT_TRACK": "True"},
    )
    (shown,) = json.loads(done.stdout)
    assert shown["tag"] == TAG


def test_what_bentoml_exports_and_imports_stays_whole(
    bento: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = added(refs=["main"])
    exported = bento.export_model(TAG, str(tmp_path / "exported.bentomodel"))
    bento.delete(TAG)
    assert store.stored() == ()
    assert bento.import_model(exported).tag.version == COMMIT
    (imported,) = store.stored()
    assert imported.source == "org/model"
    assert store.find("org/model", "main") == imported
    assert [file.sha256 for file in imported.files] == [file.sha256 for file in model.files]
    assert store.verify(TAG) == ()
    checked = store.quick_check(imported)
    assert store.stored() == (checked,)
    assert store.find_tag("pt-org--model") == checked


@pytest.mark.parametrize("newest", [True, False])
def test_latest_is_kept_right_between_both(bento: Any, newest: bool) -> None:
    added(version="1")
    _created("pt-org--model:2")
    added(version="3")
    bento.delete("pt-org--model:3") if newest else store.remove("pt-org--model:3")
    assert bento.get("pt-org--model").tag.version == "2"
    store.remove("pt-org--model:2") if newest else bento.delete("pt-org--model:2")
    assert bento.get("pt-org--model").tag.version == "1"
    store.remove("pt-org--model:1")
    assert bento.list() == []


def test_a_model_that_bentoml_made_is_ours_too(bento: Any) -> None:
    made = _created("made:1")
    (model,) = store.stored()
    assert (model.tag, model.format, model.source) == ("made:1", "safetensors", "")
    assert model.created == made.creation_time
    assert {file.name: file.size for file in model.files} == {
        name: len(content) for name, content in SHARDS.items()
    }
    assert not model.hashed
    assert store.quick_check(model) == model
    store.remove("made:1")
    assert bento.list() == []


def test_metadata_of_another_program_is_no_record_of_ours(bento: Any) -> None:
    _created("made:1", metadata={"openllm": {"format": "gguf", "files": 3}, "1": [1, 2.5, "x"]})
    _created("made:2", metadata={"openllm": "0.4.44"})
    assert [model.format for model in store.stored()] == ["safetensors"] * 2
    assert [model.source for model in store.stored()] == ["", ""]


def _created(tag: str, **options: Any) -> Any:
    import bentoml

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with bentoml.models.create(tag, **options) as made:
            downloaded(Path(made.path), SHARDS)
    return bentoml.models.get(tag)
