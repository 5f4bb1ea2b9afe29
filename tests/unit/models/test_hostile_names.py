"""No spelling of a model leads where it should not, or has an answer that tells of other files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import openllm
from openllm.errors import ConfigurationError, ModelFileError
from openllm.models.locate import find_local
from openllm.models.ref import parse_ref
from openllm.models.store import find, find_tag
from tests.hostile_names import HOSTILE


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files that are no models; the current folder and the store lie in it."""
    for name in ("secret.txt", "work/notes.txt", "home/.ssh/id_rsa"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "store"))
    return tmp_path


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every file and folder below `folder` with its size and time of change."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            state = os.lstat(os.path.join(root, name))
            found[os.path.join(root, name)] = (state.st_size, state.st_mtime_ns)
    return found


def test_there_are_two_hundred() -> None:
    assert len(HOSTILE) >= 200


@pytest.mark.reliability("S-28")
def test_hostile_names_are_refused_and_touch_nothing(outside: Path) -> None:
    before = snapshot(outside)
    for name in HOSTILE:
        for use in (openllm.LLM, lambda text: find_local(parse_ref(text))):
            with pytest.raises(ConfigurationError) as raised:
                pytest.fail(f"{name!r} means {use(name)}")
            message = raised.value.message
            assert message.isprintable(), name
            assert len(message) < 2500, name
            assert "secret" not in message, name
        assert find_tag(name) is None, name
        assert find(name, name, name) is None, name
    assert snapshot(outside) == before


@pytest.mark.reliability("S-28")
@pytest.mark.parametrize("name", ["b" * 300 + "/x.gguf", "b" * 300 + "/é/x", "x=" + "é/" * 2040])
def test_a_path_longer_than_a_file_system_has_is_not_there(outside: Path, name: str) -> None:
    with pytest.raises((ConfigurationError, ModelFileError)):
        find_local(parse_ref(name))
