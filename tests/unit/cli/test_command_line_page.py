"""docs/command_line.md says what is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from openllm.cli import _COMMANDS
from openllm.config.fields import OPTION_MODELS
from openllm.engines.scripted_rules import Fault, Rule, Script, read_script

PAGE = (Path(__file__).parents[3] / "docs" / "command_line.md").read_text()


def test_the_script_shown_is_a_script(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "shown.script.json"
    path.write_text(shown)
    assert len(read_script(path).rules) == 6


@pytest.mark.parametrize("struct", [Script, Rule, Fault])
def test_every_field_of_a_script_is_documented(struct: type) -> None:
    missing = [name for name in struct.__struct_fields__ if f'"{name}"' not in PAGE]  # type: ignore[attr-defined]
    assert not [name for name in missing if f"`{name}`" not in PAGE]


def test_every_flag_it_names_exists() -> None:
    fields = {name.replace("_", "-") for model in OPTION_MODELS for name in model.model_fields}
    named = {name.replace("_", "-") for name in re.findall(r"(?<!-)--([a-z][a-z_-]*)", PAGE)}
    assert {"port", "top-k", "ssl-keyfile-password"} <= named
    assert named <= fields | {"help", "opt", "url", "config", "model", "model-path"}


def test_every_command_is_named() -> None:
    assert all(name in PAGE for name in _COMMANDS)
