"""The rules of the house that no linter checks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import openllm
from openllm.cli import _COMMANDS

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))

# Third-party packages that a help text may load. All of them are small or needed for flags.
MAY_LOAD = {
    "click", "pydantic", "pydantic_core", "annotated_types", "typing_extensions",
    "typing_inspection", "msgspec", "openllm",
}  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_nearly_all_files_keep_the_target() -> None:
    over = [path.name for path in SOURCES if len(path.read_text().splitlines()) > 300]
    assert len(over) <= len(SOURCES) * 0.05, over


def test_no_file_is_named_for_nothing() -> None:
    vague = {"utils.py", "util.py", "common.py", "helpers.py", "manager.py", "misc.py"}
    assert not vague & {path.name for path in SOURCES}


def test_changelog_begins_with_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == openllm.__version__


@pytest.mark.parametrize("command", ["", *_COMMANDS])
def test_help_loads_no_heavy_module(command: str) -> None:
    code = (
        "import sys; from openllm.cli import main\n"
        f"try: main({[command, '--help'] if command else ['--help']!r}, prog_name='openllm')\n"
        "except SystemExit as end: assert not end.code\n"
        "print('MODULES', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.rpartition("MODULES")[2].split())
    heavy = {name for name in loaded - MAY_LOAD if not _is_standard(name)}
    assert not heavy
    assert "Usage: openllm" in done.stdout


def _is_standard(name: str) -> bool:
    return name in sys.stdlib_module_names or name.startswith("_") or name == "MODULES"


@pytest.mark.spec("S0-02")
def test_client_imports_nothing_of_the_server() -> None:
    code = "import sys, open_llm_client; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"openllm", "bentoml", "_bentoml_sdk", "torch", "transformers", "xllamacpp"}


@pytest.mark.spec("S0-01")
def test_both_commands_are_one_program() -> None:
    from importlib.metadata import entry_points

    scripts = {each.name: each.value for each in entry_points(group="console_scripts")}
    assert scripts["openllm"] == scripts["open-llm-server"] == "openllm.cli:main"
