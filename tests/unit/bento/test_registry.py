"""`import_model`: into BentoML's store once, from the hub or from this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bentoml
import pytest
from bentoml.exceptions import NotFound

import open_llm_server
import openllm
from openllm.bento.registry import LLMModel, import_model, stored_model
from openllm.bento.runners import get_runner
from openllm.errors import ConfigurationError, ModelNotFoundError
from openllm.models.families import find
from openllm.models.registry import Registry
from openllm.models.store import remove, stored
from tests.hub_server import HubServer
from tests.unit.bento.models import script

DEMO = Path(openllm.__file__).parent / "demo" / "demo-q8_0.gguf"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "home"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub on which the default models of two families are the bundled one."""
    with HubServer() as served:
        for family in ("llama", "bloom"):
            row = find(family)
            assert row is not None
            served.add_repo(row.model_id, {DEMO.name: DEMO.read_bytes()}, row.revision)
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


@pytest.mark.spec("S0-50", "S0-49")
def test_a_family_is_downloaded_once(hub: HubServer) -> None:
    from open_llm_server.llama import get_runner as get_llama_runner  # type: ignore[import]

    runner = get_llama_runner(top_k=3, top_p=0.15, max_tokens=4, embedded=True)
    assert hub.body_bytes <= 1.05 * DEMO.stat().st_size
    [model] = runner.models
    assert isinstance(model, bentoml.Model)
    llama = find("llama")
    assert llama is not None
    assert str(model.tag) == f"llamacpp-nousresearch--llama-2-7b-hf:{llama.revision}"
    configuration = runner.chat.run("Hello")["configuration"]
    assert configuration.items() >= {"model": "llama", "top_k": 3, "top_p": 0.15}.items()
    hub.reset_counts()
    again = get_llama_runner("llama", freq_penalty=0.123)
    assert (again.name, again.models) == ("llama", [model])
    assert import_model("llama") == model
    assert hub.requests == []


@pytest.mark.spec("S0-50")
def test_a_downloaded_model_is_bentomls_too(hub: HubServer, home: Path) -> None:
    model = import_model("bloom")
    assert isinstance(model, LLMModel)
    assert (model.record.format, model.record.source) == ("gguf", "bigscience/bloom-7b1")
    code = (
        "import bentoml, json\n"
        "found = [(str(each.tag), each.path) for each in bentoml.models.list()]\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[str(model.tag), model.path]]
    command = [sys.executable, "-m", "bentoml", "models", "list", "-o", "json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert str(model.tag) in listed


@pytest.mark.spec("S0-50")
def test_files_of_this_machine_are_linked(home: Path) -> None:
    model = import_model("demo")
    assert str(model.tag) == openllm.LLM("demo").tag
    kept = Path(model.record.path)
    assert kept.is_relative_to(home)
    assert kept.name == DEMO.name
    assert os.path.samefile(kept, DEMO) or kept.stat().st_dev != DEMO.stat().st_dev
    assert import_model("demo") == model == openllm.LLM("demo").bentomodel
    assert len(stored()) == 1


def test_it_makes_runners(home: Path, tmp_path: Path) -> None:
    model = import_model(script(tmp_path, "Said"))
    runner = model.to_runner(embedded=True, max_tokens=2)
    assert (runner.name, runner.models) == (model.tag.name, [model])
    assert runner.complete.run("x")["choices"] == ["one two"]
    assert model.to_runner("other").name == "other"
    remove(str(model.tag))
    with pytest.raises(ModelNotFoundError, match="import it again"):
        model.to_runner()


def test_all_shards_are_stored(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in (1, 2):
        (shards / f"big-0000{number}-of-00002.gguf").write_bytes(DEMO.read_bytes())
    (shards / "other.gguf").write_bytes(b"GGUF")
    model = import_model(str(shards / "big-00001-of-00002.gguf"))
    assert [file.name for file in model.record.files] == [
        "big-00001-of-00002.gguf",
        "big-00002-of-00002.gguf",
    ]
    assert model.record.path.endswith("big-00001-of-00002.gguf")


def test_what_is_not_there_is_told(home: Path) -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'llama'"):
        import_model("lama")
    with pytest.raises(NotFound, match="import_model"):
        stored_model("llamacpp-nothing:1234")


@pytest.mark.spec("S0-52")
def test_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllm.models.registry.REGISTRY._models", {}, raising=True)
    registry: Registry = open_llm_server.Registry

    @registry.add_model(model_name="new-model")
    class NewModel(open_llm_server.LLMModel):
        source = script(tmp_path, "own")
        defaults = {"max_tokens": 1}  # noqa: RUF012

    runner = get_runner("new_model", embedded=True)
    assert runner.chat.run("x")["message"] == "one"
