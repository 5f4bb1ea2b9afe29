"""Models whose record or files are damaged: shown everywhere, and every way out of it works."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from openllm.cli import main
from openllm.cli.doctor_store import look_at_store
from openllm.models import store, store_check
from openllm.models.store import StoredModel
from tests.hub_server import HubServer
from tests.unit.models.gguf_bytes import build, right_metadata
from tests.unit.models.store_models import COMMIT, added

RECORDS = {
    "broken": b"{broken",
    "empty": b"",
    "zeros": b"\0" * 512,
    "text": b"nothing",
    "half": b'{"name": "pt-org--model", "metadata": {"openllm": {"format": "saf',
    "dated": b'{"metadata": {"openllm": {}}, "creation_time": "long ago"}',
    "tagged": b"name: !!bool x",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def openllm(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def harmed(content: bytes | None = RECORDS["broken"]) -> StoredModel:
    """Store a model, and damage its record, or remove it."""
    model = added()
    record = Path(model.folder, "model.yaml")
    record.unlink() if content is None else record.write_bytes(content)
    return model


@pytest.mark.parametrize("content", [*RECORDS.values(), None], ids=[*RECORDS, "missing"])
def test_a_damaged_record_is_shown_and_can_be_removed(content: bytes | None) -> None:
    sound = added("llamacpp-a", "1", contents={"a.gguf": b"a"})
    model = harmed(content)
    assert store.stored() == (sound,)
    (_, first, second) = openllm("list").stdout.splitlines()
    assert first.startswith(sound.tag)
    assert second.startswith(f"{model.tag}  damaged")
    assert "model.yaml is" in second
    known, told = json.loads(openllm("list", "--json").stdout)
    assert set(told) == {*known, "damaged"}
    assert (told["tag"], told["format"]) == (model.tag, None)
    done = openllm("verify")
    assert done.exit_code == 1
    assert f"{model.tag}: damaged: model.yaml is" in done.stdout
    assert openllm("verify", model.tag).exit_code == 1
    shown = openllm("show", model.name)
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert f"openllm rm --yes {model.tag}" in shown.stderr
    (check,) = [each for each in look_at_store() if each.name == "models"]
    assert (check.status, model.tag in check.text) == ("warn", True)
    removed = openllm("rm", model.tag)
    assert (removed.exit_code, removed.stdout[: len(model.tag) + 9]) == (0, f"Removed {model.tag},")
    assert not Path(model.folder).parent.exists()
    assert openllm("verify").exit_code == 0


def test_gc_removes_a_damaged_model_only_when_told(home: Path) -> None:
    model = harmed()
    held, fresh = added("pt-held"), added("pt-fresh")
    for each in (held, fresh):
        Path(each.folder, "model.yaml").write_bytes(b"{broken")
    holding = store.hold(held)
    for folder in (model.folder, held.folder):
        for path in (*Path(folder).iterdir(), folder):
            os.utime(path, (1, 1))
    done = openllm("gc", "--store-quota", "0")
    assert f"Left {model.tag}, 9.8 KiB, damaged: " in done.stdout
    assert "; --damaged removes it.\n" in done.stdout
    listed = openllm("gc", "--damaged", "--dry-run").stdout
    assert listed.startswith(f"Would remove {model.tag}, damaged: ")
    assert Path(model.folder).exists()
    done = openllm("gc", "--damaged")
    holding.close()
    assert done.stdout.startswith(f"Removed {model.tag}, damaged: ")
    assert "--damaged removes it" not in done.stdout
    for left in (held, fresh):
        line = next(each for each in done.stdout.splitlines() if f"Left {left.tag}, " in each)
        assert line.endswith(f"run this again later, or `openllm rm {left.tag}`.")
    assert {each.tag for each in store.damaged()} == {held.tag, fresh.tag}
    assert not list(home.glob("**/openllm-incoming-*"))


def test_a_download_takes_the_place_of_a_damaged_model(home: Path) -> None:
    model = harmed()
    again = added()
    assert (again.tag, store.stored()) == (model.tag, (again,))
    assert store.verify(again.tag) == ()
    assert not list(home.glob("**/openllm-incoming-*"))


def test_the_record_of_a_stranger_is_not_called_damaged(home: Path) -> None:
    model = added()
    Path(model.folder, "model.yaml").write_text("name: theirs\n")
    assert (store.stored(), store.damaged()) == ((), ())
    assert openllm("rm", model.tag).exit_code == 2
    (home / "models" / "notes").mkdir()
    (home / "models" / "notes" / "file").write_text("")
    (home / "models" / "plain").write_text("")
    (home / "models" / "openllm-incoming-1" / "onnx").mkdir(parents=True)
    assert store.damaged() == ()
    assert openllm("show", "plain").exit_code == 2


def test_a_record_for_other_users_stays_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = added()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("openllm.models.store_record._document", refuse)
    assert (store.stored(), store.damaged()) == ((), ())
    assert Path(model.folder).exists()


def test_pull_replaces_a_model_whose_record_is_damaged(hub: HubServer) -> None:
    hub.add_repo("org/tiny", {"plain.gguf": bytes(build(right_metadata()).content)})
    pull = ["pull", "org/tiny", "--hub-endpoint", hub.url]
    done = openllm(*pull)
    assert done.exit_code == 0, done.stderr
    (model,) = store.stored()
    Path(model.folder, "model.yaml").write_bytes(b"{broken")
    done = openllm(*pull)
    assert (done.exit_code, done.stdout) == (0, f"{model.tag}\n")
    assert [each.tag for each in store.stored()] == [model.tag]


@pytest.mark.reliability("F-13")
@pytest.mark.parametrize("harm", ["flip", "lose"])
@pytest.mark.parametrize("command", ["fit", "start", "pull"])
def test_a_damaged_file_is_told_with_its_tag_and_the_way_out(command: str, harm: str) -> None:
    content = bytes(build(right_metadata()).content)
    model = added("llamacpp-org--tiny", contents={"plain.gguf": content}, source="org/tiny")
    path = Path(model.path)
    if harm == "flip":
        path.write_bytes(content[:12] + bytes([content[12] ^ 64]) + content[13:])
    else:
        path.unlink()
    done = openllm(command, "org/tiny", "--offline")
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{path} is damaged: expected " in done.stderr
    assert f"Run `openllm verify {model.tag}`" in done.stderr
    assert f"openllm rm --yes {model.tag} && openllm pull org/tiny@{COMMIT}" in done.stderr


@pytest.mark.reliability("F-13")
@pytest.mark.parametrize("command", ["fit", "start"])
def test_damage_without_a_trace_is_told_with_the_tag(command: str) -> None:
    content = bytearray(build(right_metadata()).content)
    model = added("llamacpp-org--tiny", contents={"plain.gguf": bytes(content)}, source="org/tiny")
    state = os.stat(model.path)
    content[16] ^= 64
    Path(model.path).write_bytes(content)
    os.utime(model.path, ns=(state.st_atime_ns, state.st_mtime_ns))
    done = openllm(command, "org/tiny", "--offline")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "plain.gguf is damaged: " in done.stderr
    assert f"(stored as {model.tag}; `openllm verify {model.tag}` compares" in done.stderr


def test_a_copied_store_that_cannot_be_written_is_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = added()
    path = Path(model.folder, model.files[0].name)
    os.utime(path, (1, 1))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("openllm.models.store_remember.write", refuse)
    read: list[object] = []
    real = store_check.sha256_of
    monkeypatch.setattr(store_check, "sha256_of", lambda path: read.append(path) or real(path))
    for _ in range(3):
        store.quick_check(model)
    assert read == [path]
