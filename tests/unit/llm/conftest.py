from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import openllm
import openllm.engines
from openllm.engines import EngineKind
from tests.unit.llm.recording import RecordingEngine

MakeLLM = Callable[..., openllm.LLM]


@pytest.fixture
def make_llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeLLM]:
    """Return a function that makes an LLM of a script, whose engine notes what reaches it."""
    kind = EngineKind("tests.unit.llm.recording:RecordingEngine", ("script",))
    monkeypatch.setitem(openllm.engines.ENGINES, "scripted", kind)
    RecordingEngine.starts.clear()
    made: list[openllm.LLM] = []

    def make(script: dict[str, Any] | None = None, **options: Any) -> openllm.LLM:
        path = tmp_path / f"test{len(made)}.script.json"
        path.write_text(json.dumps(script or {"default": {"reply": "one two three four five"}}))
        made.append(openllm.LLM(path, **options))
        return made[-1]

    yield make
    for llm in made:
        llm.sync_close()
