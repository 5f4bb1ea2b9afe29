from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from openllm.bento.preflight import check_models
from openllm.config.model import LoadOptions, ModelConfig, RequestDefaults
from openllm.errors import ConfigurationError, ModelFileError
from openllm.types import LocalModel


def script(folder: Path, content: Any, name: str = "talk") -> LocalModel:
    path = folder / f"{name}.script.json"
    path.write_text(json.dumps(content))
    return LocalModel(name=name, path=str(path), format="script")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"rulez": []}, "unknown field `rulez`"),
        ({"rules": [{"match": "(", "reply": "x"}]}, "no regular expression"),
        ([], "Expected `object`, got `array`"),
    ],
)
def test_a_wrong_script_is_refused(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(ModelFileError, match=says) as raised:
        check_models([script(tmp_path, content)], ModelConfig())
    assert "talk.script.json" in raised.value.message


def test_every_model_is_checked(tmp_path: Path) -> None:
    good, bad = script(tmp_path, {}, "good"), script(tmp_path, {"rulez": 1}, "bad")
    check_models([good], ModelConfig())
    with pytest.raises(ModelFileError, match=r"bad\.script\.json"):
        check_models([good, bad], ModelConfig())


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    config = ModelConfig(load=LoadOptions(backend="abacus"))
    with pytest.raises(ConfigurationError, match="abacus") as raised:
        check_models([script(tmp_path, {})], config)
    assert raised.value.param == "backend"


@pytest.mark.parametrize(
    ("prompt", "warned"),
    [
        ("nofile.txt", True),
        ("./nofile", True),
        ("prompts/pirate", True),
        ("pirate.md", True),
        ("You are a pirate.", False),
        ("See notes/pirate.txt first.", False),
        ("Line\nfile.txt", False),
        ("Ahoy", False),
        ("Ahoy.", False),
        ("Ahoy...", False),
        ("pre.txt", False),
        (None, False),
    ],
)
def test_a_prompt_like_the_path_of_no_file_is_told(
    prompt: str | None,
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pre.txt").write_text("Speak like a pirate.")
    config = ModelConfig(defaults=RequestDefaults(prompt=prompt))
    with caplog.at_level(logging.WARNING, "openllm"):
        check_models([script(tmp_path, {})], config)
    lines = [record.getMessage() for record in caplog.records]
    assert bool(lines) is warned
    if warned:
        assert lines == [
            f"--prompt {prompt!r}: there is no such file, so these words are the prompt"
        ]


def test_a_prompt_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin1.txt"
    path.write_bytes("Grüße".encode("latin-1"))
    config = ModelConfig(defaults=RequestDefaults(prompt=str(path)))
    with pytest.raises(ConfigurationError, match=r"latin1\.txt"):
        check_models([script(tmp_path, {})], config)
