"""The older names work as thin layers over `openllm.LLM`, or say what to use."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import openllm
import openllm.llm.source
from openllm.config.download import DownloadOptions
from openllm.config.model import LoadOptions
from openllm.errors import ConfigurationError, EngineNotInstalledError, UnsupportedError
from openllm.llm.choice import EngineChoice
from openllm.types import LocalModel
from tests.unit.llm.conftest import MakeLLM
from tests.unit.llm.recording import RecordingEngine


@pytest.fixture
def path(make_llm: MakeLLM) -> str:
    return make_llm().model_id


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Note the backends that are asked for, whether they are installed or not."""
    backends: list[str | None] = []

    def choose(model: LocalModel, options: LoadOptions) -> EngineChoice:
        backends.append(options.backend)
        return EngineChoice("scripted", "of the test")

    monkeypatch.setattr(openllm.llm.source, "choose_engine", choose)
    return backends


@pytest.mark.spec("S1-06")
def test_auto_classes_make_an_llm(path: str, asked: list[str | None]) -> None:
    llm = openllm.AutoLLM.for_model("llama", model_id=path, max_new_tokens=2)
    assert isinstance(llm, openllm.LLM)
    assert RecordingEngine.starts == []
    assert llm.config.defaults.max_tokens == 2
    openllm.AutoVLLM.for_model("llama", path, ensure_available=True)
    openllm.AutoLLM.for_model(path, backend="pt")
    assert asked == [None, "vllm", "pt"]
    assert RecordingEngine.starts == []


def test_the_name_of_a_family_means_its_example() -> None:
    llm = openllm.AutoLLM.for_model("flan-t5")
    assert (llm.name, llm.backend) == ("flan-t5", None)  # It is not on this machine.
    with pytest.raises(ConfigurationError, match="Known models: demo"):
        openllm.AutoLLM.for_model("no-family")
    assert openllm.AutoLLM.for_model("demo").name == "demo"


def test_auto_classes_generate(path: str) -> None:
    llm = openllm.AutoLLM.for_model("llama", model_id=path, max_new_tokens=2)
    assert llm.sync_generate("hi").outputs[0].text == "one two"
    llm.sync_close()


def test_a_backend_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises((EngineNotInstalledError, ConfigurationError), match="vllm"):
        openllm.AutoVLLM.for_model("llama", model_id="demo")


@pytest.mark.spec("S1-06")
def test_ensure_available_checks_the_files(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF")
    assert openllm.AutoLLM.for_model("llama", damaged).name == "damaged"
    with pytest.raises(ConfigurationError, match=r"damaged\.gguf"):
        openllm.AutoLLM.for_model("llama", damaged, ensure_available=True)
    offline = DownloadOptions(offline=True)
    assert openllm.AutoLLM.for_model("llama", "org/name", download=offline).name == "name"
    with pytest.raises(ConfigurationError, match="openllm pull org/name"):
        openllm.AutoLLM.for_model("llama", "org/name", ensure_available=True, download=offline)


@pytest.mark.spec("S1-06")
@pytest.mark.parametrize(
    "name", ["AutoTFLLM", "AutoFlaxLLM", "TFLlama", "FlaxLlama", "TFFlanT5", "FlaxFlanT5"]
)
def test_tensorflow_and_flax_name_the_replacement(name: str) -> None:
    old = getattr(openllm, name)
    for method in (old.for_model, old.from_pretrained):
        with pytest.raises(UnsupportedError, match=rf"openllm\.{name}: .*use openllm\.LLM"):
            method("llama")
    with pytest.raises(UnsupportedError, match=r"use openllm\.LLM"):
        openllm.Runner("llama", model_id="demo", backend="tf")


@pytest.mark.spec("S1-07")
def test_from_pretrained_takes_transformers_arguments(path: str, asked: list[str | None]) -> None:
    options: dict[str, Any] = {
        "torch_dtype": np.dtype("float32"),  # Written as torch writes its own.
        "device_map": "auto",
        "low_cpu_mem_usage": True,
        "use_safetensors": True,
        "local_files_only": False,
        "trust_remote_code": False,
    }
    llm = openllm.LLM.from_pretrained(path, **options)
    assert llm.config.load.dtype == "float32"
    assert llm.config.load.device is None
    assert openllm.Llama.from_pretrained(path, device_map="cuda:1").config.load.device == "cuda:1"
    assert openllm.VLLMLlama.from_pretrained(path, torch_dtype="auto").backend == "scripted"
    assert asked == [None, None, "vllm"]
    assert RecordingEngine.starts == []
    with pytest.raises(TypeError, match="no argument 'attn_implementation'"):
        openllm.LLM.from_pretrained(path, attn_implementation="eager")
    with pytest.raises(TypeError, match="no argument 'use_safetensors'"):
        openllm.LLM.from_pretrained(path, use_safetensors=False)


@pytest.mark.spec("S1-07")
def test_from_pretrained_downloads_as_transformers_does(path: str) -> None:
    options = {"revision": "v1", "token": "secret", "local_files_only": True}
    source = openllm.LLM.from_pretrained("org/name", **options)._source
    assert source._download == DownloadOptions(revision="v1", hub_token="secret", offline=True)
    assert str(source._ref) == "name=org/name@v1"
    with pytest.raises(ConfigurationError, match="openllm pull org/name"):
        openllm.LLM.from_pretrained("org/name", local_files_only=True).sync_generate("hi")
    assert (
        openllm.LLM.from_pretrained("org/name", token=True)._source._download == DownloadOptions()
    )
    with pytest.raises(ConfigurationError, match="on this machine and has no revisions"):
        openllm.LLM.from_pretrained(path, revision="v1")
    with pytest.raises(ConfigurationError) as told:
        openllm.LLM.from_pretrained("org/name", token="a secret", revision="")
    assert "2 settings are wrong" in told.value.message
    assert "secret" not in told.value.message
    with pytest.raises(TypeError, match="download and revision are both given"):
        openllm.LLM.from_pretrained("org/name", revision="v1", download=DownloadOptions())


@pytest.mark.anyio
@pytest.mark.spec("S1-08")
async def test_the_old_runner_streams(path: str) -> None:
    runner = openllm.Runner("llama", model_id=path)
    runner.init_local(quiet=True)
    for method in (runner.generate_iterator, runner.vllm_generate_iterator):
        found = [each async for each in method.async_stream("hi", max_new_tokens=2)]
        assert [each.outputs[0].text for each in found] == ["one", "one two"]


def test_older_classes_are_not_built() -> None:
    with pytest.raises(TypeError, match=r"openllm\.AutoLLM is not built directly; use openllm"):
        openllm.AutoLLM("demo")


def test_every_family_has_its_classes() -> None:
    for family in ("Llama", "Falcon", "FlanT5", "DollyV2", "StableLM", "ChatGLM", "GPTNeoX"):
        assert getattr(openllm, family) is getattr(openllm, family)
        assert repr(getattr(openllm, "VLLM" + family)) == f"openllm.VLLM{family}"
    with pytest.raises(AttributeError, match="Lama"):
        _ = openllm.Lama


def test_the_stub_has_every_public_name() -> None:
    stub = Path(openllm.__file__).with_suffix(".pyi").read_text()
    names = set()
    for node in ast.walk(ast.parse(stub)):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname for alias in node.names}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    assert set(openllm.__all__) <= names
    for name in openllm.__all__:
        assert getattr(openllm, name) is not None


def test_importing_the_package_costs_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import openllm; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - set(sys.stdlib_module_names) <= {"openllm"}
