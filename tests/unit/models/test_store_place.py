"""A store that cannot be made, read or written is told with its path and the way out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from openllm.cli import main
from openllm.cli.doctor_store import look_at_store
from openllm.errors import ConfigurationError
from openllm.models import store
from tests.hub_server import HubServer
from tests.unit.models.store_models import COMMIT, added

WAY_OUT = "set BENTOML_HOME, or --models-dir, to a folder that this user can write"
COMMANDS = (["list"], ["list", "--json"], ["show", "x"], ["rm", "x"], ["verify"], ["gc"])


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


def below_a_file(folder: Path) -> Path:
    return a_file(folder) / "store"


def a_dangling_link(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "nowhere" / "store")
    return folder / "link"


def in_proc(_: Path) -> Path:
    return Path("/proc/openllm-store")


def models_is_a_file(folder: Path) -> Path:
    (folder / "models").write_text("")
    return folder


PLACES = (a_file, below_a_file, a_dangling_link, in_proc, models_is_a_file)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make: Callable[[Path], Path] = request.param
    made = make(tmp_path)
    monkeypatch.setenv("BENTOML_HOME", str(made))
    return made


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_says_where_and_what_to_do(place: Path, arguments: list[str]) -> None:
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: The store of models {place} cannot be used: ")
    assert done.stderr.endswith(f"; {WAY_OUT}\n")


def test_doctor_fails(place: Path) -> None:
    folder = look_at_store()[0]
    assert (folder.status, str(place) in folder.text) == ("fail", True)
    assert "BENTOML_HOME" in folder.fix


def test_a_download_is_refused(place: Path) -> None:
    if not (place / "models").exists():
        with pytest.raises(ConfigurationError, match=WAY_OUT) as refused:
            store.staging("org/x", COMMIT)
        assert str(place) in refused.value.message
    with HubServer({"org/tiny": {"m.gguf": b"GGUF"}}) as hub:
        done = CliRunner().invoke(main, ["pull", "org/tiny", "--hub-endpoint", hub.url])
    assert done.exit_code == 2, done.stderr
    assert WAY_OUT in done.stderr


def test_the_bundled_model_needs_no_store(place: Path) -> None:
    done = CliRunner().invoke(main, ["pull", "demo"])
    assert (done.exit_code, done.stderr) == (0, "")


def test_looking_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "not" / "there"))
    store.check_place()
    assert CliRunner().invoke(main, ["list"]).exit_code == 0
    assert not list(tmp_path.iterdir())


def test_what_is_stored_can_be_read_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    model = added()
    os.utime(Path(model.folder, model.files[0].name), (1, 1))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    store.check_place()
    assert store.quick_check(model).files[0].modified == 10**9
    assert store.stored() == (model,)
    with pytest.raises(ConfigurationError, match=f"Read-only file system; {WAY_OUT}"):
        store.staging("org/x", COMMIT)
