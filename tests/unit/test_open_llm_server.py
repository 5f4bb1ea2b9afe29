"""The façade with document S0's names."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import open_llm_server
import openllm
from openllm.models import families as known
from openllm.models.families import Families, families


def test_its_names_are_those_of_openllm() -> None:
    from openllm.bento import registry, runnable, runners

    assert open_llm_server.start is openllm.start
    assert open_llm_server.Registry is openllm.Registry
    assert open_llm_server.get_runner is runners.get_runner
    assert open_llm_server.import_model is registry.import_model
    assert open_llm_server.LLMModel is registry.LLMModel
    assert open_llm_server.LLMRunnable is runnable.LLMRunnable
    assert open_llm_server.__version__ == openllm.__version__
    assert set(open_llm_server.__all__) <= set(dir(open_llm_server))
    with pytest.raises(AttributeError, match="nothing"):
        open_llm_server.nothing  # noqa: B018


@pytest.mark.spec("S0-49")
def test_every_family_is_a_module() -> None:
    for family in families():
        for name in (family.name, family.name.replace("_", "-")):
            module = importlib.import_module(f"open_llm_server.{name}")
            assert callable(module.get_runner)
            assert importlib.util.find_spec(module.__name__) is module.__spec__
    assert open_llm_server.flan_t5 is importlib.import_module("open_llm_server.flan_t5")
    for alias in ("dolly", "t5", "gpt_j", "qwen2_5"):
        importlib.import_module(f"open_llm_server.{alias}")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("open_llm_server.lama")


@pytest.mark.spec("S0-49")
def test_a_family_module_names_its_family(monkeypatch: pytest.MonkeyPatch) -> None:
    from openllm.bento import runners

    asked: list[object] = []
    monkeypatch.setattr(
        runners, "get_runner", lambda *args, **options: asked.append((args, options))
    )
    open_llm_server.llama.get_runner(top_k=3)
    open_llm_server.llama.get_runner("llama:7b", embedded=True)
    importlib.import_module("open_llm_server.flan-t5").get_runner(freq_penalty=0.5)
    open_llm_server.qwen2_5.get_runner()
    assert asked == [
        (("llama",), {"top_k": 3}),
        (("llama:7b",), {"embedded": True}),
        (("flan-t5",), {"freq_penalty": 0.5}),
        (("qwen2.5",), {}),
    ]


@pytest.mark.spec("S0-49", "S0-52")
def test_an_added_family_is_a_module_too(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Families(families())
    monkeypatch.setattr(known, "table", lambda: table)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("open_llm_server.tulip_2")
    assert not hasattr(open_llm_server, "tulip_2")
    row = {"name": "tulip-2", "architecture": "LlamaForCausalLM", "example_id": "org/tulip"}
    open_llm_server.Registry.add_family(row)
    try:
        assert callable(open_llm_server.tulip_2.get_runner)
        assert importlib.import_module("open_llm_server.tulip_2") is open_llm_server.tulip_2
    finally:
        sys.modules.pop("open_llm_server.tulip_2", None)
        vars(open_llm_server).pop("tulip_2", None)


def test_its_stub_has_every_name() -> None:
    stub = ast.parse(Path(open_llm_server.__file__).with_suffix(".pyi").read_text())
    names = set()
    for node in ast.walk(stub):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    assert set(open_llm_server.__all__) <= names


def test_importing_it_loads_no_server() -> None:
    code = (
        "import json, sys\n"
        "import open_llm_server\n"
        "from open_llm_server.llama import get_runner\n"
        "print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"bentoml", "starlette", "uvicorn", "pydantic"} & set(json.loads(done.stdout))
