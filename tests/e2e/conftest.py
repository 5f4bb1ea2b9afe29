"""Scripted models in real processes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from openllm import engines
from openllm.config.model import LoadOptions, ModelConfig
from openllm.runner.client import Runner
from openllm.types import GenerateRequest, LocalModel, SamplingParams
from tests.waiting import until

SCRIPT: dict[str, Any] = {
    "tokens_per_second": 200,
    "rules": [
        {
            "match": "^die$",
            "reply": "one two three",
            "faults": [{"kind": "crash", "after_tokens": 2}],
        },
        {"match": "^long$", "reply": "word ", "repeat": 3000},
        {"match": "^fail$", "reply": "one two", "faults": [{"kind": "error", "message": "broken"}]},
    ],
    "default": {"reply": "You said: {user}"},
}


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[..., LocalModel]:
    """Return a function that writes a script and names it as a model."""

    def write(name: str = "scripted", **changes: Any) -> LocalModel:
        path = tmp_path / f"{name}.script.json"
        path.write_text(json.dumps({**SCRIPT, **changes}))
        return LocalModel(name=name, path=str(path), format="script")

    return write


@pytest.fixture
def added_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], ModelConfig]:
    """Return what adds an engine, from source with a class Engine, and how to ask for it."""
    monkeypatch.setattr(engines, "ENGINES", dict(engines.ENGINES))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)

    def add(name: str, source: str) -> ModelConfig:
        (tmp_path / f"engine_that_{name}.py").write_text(source)
        engines.add_engine(name, f"engine_that_{name}:Engine", ["script"])
        return ModelConfig(load=LoadOptions(backend=name))

    return add


@asynccontextmanager
async def unstarted(model: LocalModel, config: ModelConfig | None = None) -> AsyncIterator[Runner]:
    """Make a runner; whatever becomes of it, it is closed at the end."""
    runner = Runner(model, config)
    try:
        yield runner
    finally:
        await runner.close()


async def spawned(runner: Runner) -> psutil.Process:
    """Wait until the process of a runner that is being started exists."""
    found: list[psutil.Process] = []

    def exists() -> bool:
        with suppress(RuntimeError):
            found.append(psutil.Process(runner.pid))
        return bool(found)

    await until(exists)
    return found[0]


def ask(prompt: str, **params: Any) -> GenerateRequest:
    return GenerateRequest(request_id="r", prompt=prompt, params=SamplingParams(**params))
