"""The store among processes that die at the worst moment, or all want the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openllm.models import store
from tests.unit.models.store_crowd import NAMES

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    return tmp_path


def started(program: str, what: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.unit.models.{program}", what],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return output


@pytest.mark.parametrize(("change", "steps"), [("add", 30), ("remove", 15)])
def test_killed_at_any_step_the_model_is_whole_or_not_there(change: str, steps: int) -> None:
    result = json.loads(finished(started("store_killed", change)))
    assert result["wrong"] == []
    assert result["steps"] >= steps
    assert 0 < result["kept"] < result["steps"]


@pytest.mark.parametrize("locks", ["", "none"])
def test_many_may_add_the_same(home: Path, locks: str) -> None:
    for process in [started("store_crowd", "add", NO_LOCKS=locks) for _ in range(4)]:
        finished(process)
    assert [model.name for model in store.stored()] == NAMES
    assert all(store.verify(model.tag) == () for model in store.stored())
    assert sorted(path.name for path in (home / "openllm").iterdir()) == ["downloads", "store.lock"]


def test_who_reads_sees_whole_models_while_others_add_and_remove(home: Path) -> None:
    reader = started("store_crowd", "read")
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    for process in [started("store_crowd", "churn") for _ in range(3)]:
        finished(process)
    finished(reader)
    for model in store.stored():
        store.remove(model.tag)
    assert os.listdir(home / "models") == []
    assert sorted(path.name for path in (home / "openllm").iterdir()) == ["downloads", "store.lock"]
