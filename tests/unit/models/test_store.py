"""Putting models into the store and finding them again."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from openllm.errors import ConfigurationError, ModelFileError, ModelNotFoundError
from openllm.models import store, store_change
from openllm.models.store import ModelRecord, StoredFile
from tests.unit.models.store_models import COMMIT, SHARDS, added, downloaded, listed, used_at

OTHER = "f" * 40


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.spec("S0-09")
def test_the_store_is_where_bentoml_home_says(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = added()
    assert model.folder == str(home / "models" / "pt-org--model" / COMMIT)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "other"))
    assert store.stored() == ()
    assert added().folder.startswith(str(tmp_path / "other"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "~/bentoml", "$HOME/bentoml"):
        monkeypatch.setenv("BENTOML_HOME", unset)
        assert store.home() == tmp_path / "bentoml"
    monkeypatch.delenv("BENTOML_HOME")
    assert store.home() == tmp_path / "bentoml"


@pytest.mark.spec("S1-40")
def test_what_was_added_is_read_back() -> None:
    model = added(refs=["main"])
    assert store.stored() == (model,)
    assert model.tag == f"pt-org--model:{COMMIT}"
    assert model.size == sum(map(len, SHARDS.values()))
    assert (model.path, model.format) == (model.folder, "safetensors")
    assert [file.name for file in model.files] == list(SHARDS)
    for name, content in SHARDS.items():
        assert Path(model.folder, name).read_bytes() == content


@pytest.mark.parametrize(
    ("names", "file", "loaded"),
    [
        (["b.gguf", "config.json"], "", "b.gguf"),
        (["q8/b-00002-of-00002.gguf", "q8/b-00001-of-00002.gguf"], "", "q8/b-00001-of-00002.gguf"),
        (["a-mmproj.gguf", "b.gguf"], "", "b.gguf"),
        (["a.gguf", "b.gguf"], "b.gguf", "b.gguf"),
        (["weights.bin"], "weights.bin", "weights.bin"),
    ],
)
def test_the_path_of_a_gguf_model_is_the_file_to_load(
    names: list[str], file: str, loaded: str
) -> None:
    model = added(contents=dict.fromkeys(names, b"x"), file=file, format="gguf")
    assert model.path == os.path.join(model.folder, loaded)


def test_on_one_disk_no_byte_is_copied(tmp_path: Path) -> None:
    model = added()
    staging = store.staging("org/model", COMMIT)
    twin = store.add(model.folder, model, name="vllm-org--model", version=COMMIT)
    for name in SHARDS:
        inodes = {os.stat(Path(folder, name)).st_ino for folder in (staging, model.folder)}
        assert inodes == {os.stat(Path(twin.folder, name)).st_ino}
    store.remove(model.tag)
    assert store.verify(twin.tag) == ()


def test_links_to_a_cache_are_followed(tmp_path: Path) -> None:
    blobs = downloaded(tmp_path / "blobs", {"1": b"weights"})
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "m.gguf").symlink_to(blobs / "1")
    record = ModelRecord(format="gguf", source="s", files=(StoredFile("m.gguf", 7),))
    model = store.add(tmp_path / "snapshot", record, name="m", version="1")
    assert os.stat(model.path).st_ino == os.stat(blobs / "1").st_ino
    assert not os.path.islink(model.path)
    assert model.files[0].sha256 == listed({"m": b"weights"})[0].sha256


def test_across_disks_files_are_copied(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_disk(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    monkeypatch.setattr(store_change, "_on_one_disk", lambda *_: False)
    model = added()
    assert store.verify(model.tag) == ()
    assert store.quick_check(model) == model
    assert os.listdir(home / "models") == ["pt-org--model"]
    store.remove(model.tag)
    assert os.listdir(home / "models") == []


def test_adding_again_returns_what_is_there(home: Path) -> None:
    model = added()
    before = os.stat(model.path).st_ino
    assert added() == model
    assert os.stat(model.path).st_ino == before
    assert [path.name for path in (home / "openllm").iterdir() if path.is_dir()] == ["downloads"]


def test_a_tag_is_never_given_to_another_model(tmp_path: Path) -> None:
    model = added(name="mine", version="2")
    assert added(name="mine", version="2", source="moved/model") == model
    with pytest.raises(ConfigurationError, match="another model as mine:2, from org/model; choose"):
        added(name="mine", version="2", source="other/model", contents={"a.gguf": b"a"})
    stranger = tmp_path / "home" / "models" / "mine" / "3"
    stranger.mkdir()
    (stranger / "model.yaml").write_text("name: mine\nversion: 3\n")
    with pytest.raises(ConfigurationError, match="another model as mine:3, from BentoML"):
        added(name="mine", version="3")
    assert os.listdir(stranger) == ["model.yaml"]


def test_what_a_killed_bentoml_left_is_replaced(home: Path) -> None:
    left = home / "models" / "pt-org--model" / COMMIT
    downloaded(left, {"part": b"half"})
    model = added()
    assert store.verify(model.tag) == ()
    assert not (left / "part").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), r"config\.json is missing; download it again"),
        (lambda path: path.write_bytes(b"longer"), r"config\.json has 6 bytes instead of 2"),
        (lambda path: path.unlink() or path.mkdir(), r"config\.json is missing"),
    ],
)
def test_a_wrong_file_is_not_stored(home: Path, change: object, message: str) -> None:
    folder = downloaded(store.staging("org/model", COMMIT), SHARDS)
    assert callable(change)
    change(folder / "config.json")
    record = ModelRecord(format="gguf", source="s", files=listed(SHARDS))
    with pytest.raises(ModelFileError, match=message):
        store.add(folder, record, name="n", version="1")
    assert store.stored() == ()
    assert sorted(path.name for path in (home / "openllm").iterdir()) == ["downloads", "store.lock"]


@pytest.mark.reliability("S-28")
@pytest.mark.parametrize(
    "name",
    [
        *("../x", "a/../../x", "/etc/passwd", ".", "..", "", "a//b", "a/./b", "a/", "model.yaml"),
        *("a\0b", "a\nb", "..\\x", "a\\b", "\u202egguf", "\x7f"),
    ],
)
def test_a_file_name_that_leads_elsewhere_is_refused(tmp_path: Path, home: Path, name: str) -> None:
    record = ModelRecord(format="gguf", source="s", files=(StoredFile(name, 0),))
    with pytest.raises(ConfigurationError, match="cannot be stored"):
        store.add(tmp_path, record, name="n", version="1")
    assert not home.exists()


def test_a_model_is_found_by_its_tag() -> None:
    old = added(version="1a", source="org/model")
    new = added(version="2a")
    assert store.find_tag("pt-org--model:1a") == old
    assert store.find_tag("pt-org--model:2") == new
    assert store.find_tag("pt-org--model") == new
    assert store.find_tag("pt-org--model:latest") == new
    newest = added(version="2b")
    assert store.find_tag("pt-org--model:2") is None
    assert store.find_tag("pt-org--model:2a") == new
    store.remove(newest.tag)
    assert store.find_tag("pt-org--model") == new
    for unknown in ("pt-org--model:9", "pt-org", "", ":", "../x", "a:../../b", "A", "x" * 300):
        assert store.find_tag(unknown) is None


def test_a_model_is_found_by_its_source() -> None:
    old = added(version=COMMIT, refs=["v1", "main"])
    new = added(version=OTHER, refs=["main"])
    one = added(
        "llamacpp-org--model--q8", contents={"q8.gguf": b"q"}, file="q8.gguf", source="Org/Model"
    )
    assert store.find("org/model") == store.find("ORG/Model", "main") == new
    assert store.find("org/model", "v1") == store.find("org/model", COMMIT)
    assert store.find("org/model", "0123456").version == COMMIT  # type: ignore[union-attr]
    assert store.find("org/model", file="q8.gguf") == one
    assert store.find("org/model", file="q4.gguf") is None
    for unknown in ("v2", "012", "0123456g", "abcd"):
        assert store.find("org/model", unknown) is None
    assert old.refs == ("main", "v1")  # As it was then; the branch has moved since.
    assert {model.version: model.refs for model in store.stored() if not model.file} == {
        COMMIT: ("v1",),
        OTHER: ("main",),
    }


def test_without_a_revision_the_main_branch_is_meant() -> None:
    main = added(version=COMMIT, refs=["main"])
    later = added(version=OTHER, refs=["v1"])
    assert (store.find("org/model"), store.find("org/model", "v1")) == (main, later)
    store.remove(main.tag)
    assert store.find("org/model") == later


def test_the_case_of_an_url_counts() -> None:
    added(contents={"a.gguf": b"a"}, source="https://host/A.gguf", revision="")
    assert store.find("https://host/A.gguf")
    assert store.find("https://host/a.gguf") is None


def test_a_branch_moves_when_it_is_downloaded_again() -> None:
    added(version=COMMIT, refs=["main"])
    added(version=OTHER, refs=["main"])
    again = added(version=COMMIT, refs=["main"])
    assert store.find("org/model", "main") == again
    assert again.version == COMMIT


def test_remove_is_exact() -> None:
    model = added()
    for tag in ("pt-org--model", f"pt-org--model:{COMMIT[:8]}", "x:y", "../../x", ""):
        with pytest.raises(ModelNotFoundError, match="see `openllm list`"):
            store.remove(tag)
    assert store.remove(model.tag) == model
    assert store.stored() == ()
    assert os.listdir(store.home() / "models") == []


def test_a_model_that_is_held_is_not_removed() -> None:
    model = added()
    first, second = store.hold(model), store.hold(model)
    assert not store.remove_unused(model)
    first.close()
    first.close()
    assert not store.remove_unused(model)
    second.close()
    assert store.remove_unused(model)
    with pytest.raises(ModelFileError, match="just removed"):
        store.hold(model)


def test_touch_marks_a_model_as_used_now() -> None:
    model = added()
    used_at(model, 1_000_000_000)
    (old,) = store.stored()
    store.touch(model)
    (now,) = store.stored()
    assert old.used.timestamp() == 1_000_000_000
    assert now.used >= model.used
    assert now.created == model.created
    store.remove(model.tag)
    store.touch(model)


def test_a_model_without_a_format_or_record_is_left_out(home: Path) -> None:
    models = home / "models"
    for name, content in {
        "broken/1/model.yaml": b"{{{",
        "empty/1/model.yaml": b"",
        "noformat/1/model.yaml": b"creation_time: '2024-01-01T00:00:00+00:00'\n",
        "nofile/1/config.json": b"{}",
        ".hidden/1/model.yaml": b"",
        "file": b"",
    }.items():
        downloaded(models, {name: content})
    (models / "looped").mkdir()
    (models / "looped" / "1").symlink_to("1")
    model = added()
    assert store.stored() == (model,)


@pytest.mark.reliability("S-28")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("files", [{"name": "../../../../secret.gguf", "size": 1, "sha256": ""}]),
        ("files", []),
        ("source", "\x1b[2J"),
        ("refs", ["\u202e"]),
        ("format", "pickle"),
        ("extra", {"deep": json.loads("[" * 900 + "]" * 900)}),
    ],
)
def test_a_hostile_record_is_not_believed(home: Path, field: str, value: object) -> None:
    record = {"format": "gguf", "source": "a/b", "revision": "", "file": "", "refs": []}
    record |= {"files": [{"name": "real.gguf", "size": 4}], field: value}
    content = {"creation_time": "2024-01-01T00:00:00+00:00", "metadata": {"openllm": record}}
    downloaded(
        home / "models" / "n" / "1",
        {"model.yaml": json.dumps(content).encode(), "real.gguf": b"real", "\x1b[2J.gguf": b""},
    )
    (model,) = store.stored()
    assert model.path == os.path.join(model.folder, "real.gguf")
    assert (model.source, len(model.files)) == ("a/b" if field == "extra" else "", 1)


def test_a_record_too_deep_to_read_is_passed_over(home: Path) -> None:
    deep = b'{"creation_time": ' + b"[" * 100_000
    downloaded(home / "models" / "n" / "1", {"model.yaml": deep, "real.gguf": b"real"})
    assert store.stored() == ()


def test_a_hundred_models() -> None:
    for number in range(100):
        added(name=f"pt-org--model{number}")
    assert len(store.stored()) == 100


def test_neither_reading_nor_adding_imports_bentoml(tmp_path: Path) -> None:
    code = (
        "import sys; from openllm.models import store\n"
        "store.stored(); from tests.unit.models.store_models import added; added()\n"
        "store.verify(store.stored()[0].tag); store.collect()\n"
        "print({'bentoml', 'torch', 'yaml', 'huggingface_hub', 'pydantic'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "set()\n"
