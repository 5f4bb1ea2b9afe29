"""Which engine runs a model, told from its files alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

import openllm
from openllm.config.model import LoadOptions
from openllm.engines import vllm_presence
from openllm.errors import ConfigurationError, EngineNotInstalledError, ModelFileError
from openllm.llm import choice
from openllm.llm.choice import choose_engine
from openllm.types import LocalModel, ModelFormat

DEMO = Path(openllm.__file__).parent / "demo"


def gguf() -> LocalModel:
    return LocalModel(name="demo", path=str(DEMO / "demo-q8_0.gguf"), format="gguf")


def folder(path: Path = DEMO / "safetensors", form: ModelFormat = "safetensors") -> LocalModel:
    return LocalModel(name="folder", path=str(path), format=form)


@pytest.fixture(autouse=True)
def everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "check_installed", lambda name: None)


@pytest.mark.spec("S1-03", "S1-04")
def test_the_format_picks_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "unfit", lambda architecture: None)
    assert choose_engine(gguf(), LoadOptions()).name == "llamacpp"
    chosen = choose_engine(folder(), LoadOptions())
    assert chosen.name == "vllm"
    assert "LlamaForCausalLM" in chosen.reason


@pytest.mark.spec("S1-03")
def test_torch_where_vllm_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "unfit", lambda architecture: "vLLM has no device here")
    assert choose_engine(folder(), LoadOptions()) == ("torch", "vLLM has no device here")


@pytest.mark.spec("S1-01")
@pytest.mark.parametrize(("asked", "taken"), [("pt", "torch"), ("vllm", "vllm"), ("VLLM", "vllm")])
def test_the_user_overrules(monkeypatch: pytest.MonkeyPatch, asked: str, taken: str) -> None:
    monkeypatch.setattr(choice, "unfit", lambda architecture: None)
    assert choose_engine(folder(), LoadOptions(backend=asked)).name == taken


@pytest.mark.parametrize(
    ("model", "backend", "said"),
    [
        (gguf(), "vllm", "format is gguf; use llamacpp"),
        (folder(), "llamacpp", "use vllm or torch"),
        (folder(), "tensorrt", "no backend 'tensorrt'; known are llamacpp, vllm, torch"),
    ],
)
def test_what_cannot_be_is_refused(model: LocalModel, backend: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        choose_engine(model, LoadOptions(backend=backend))


@pytest.mark.spec("S1-01")
def test_a_missing_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("openllm.engines.find_spec", lambda name: None)
    monkeypatch.setattr(vllm_presence, "find_spec", lambda name: None)
    with pytest.raises(EngineNotInstalledError, match=r"pip install 'open-llm-server\[torch\]'"):
        choose_engine(folder(), LoadOptions())
    with pytest.raises(
        EngineNotInstalledError,
        match=r"pip install 'vllm', or on a machine without a GPU what docs/engines\.md says",
    ):
        choose_engine(folder(), LoadOptions(backend="vllm"))


@pytest.mark.parametrize(
    ("architecture", "backend", "said"),
    [
        ("BaichuanForCausalLM", "torch", "transformers 4.33"),
        ("MPTForCausalLM", "vllm", "vLLM 0.28.0"),
        ("T5ForConditionalGeneration", "vllm", "no encoder-decoder"),
    ],
)
def test_an_architecture_of_the_past_names_the_version_that_knew_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    backend: str,
    said: str,
) -> None:
    monkeypatch.setattr(choice, "unfit", lambda architecture: "not in its registry")
    copy = tmp_path / "model"
    shutil.copytree(DEMO / "safetensors", copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"architectures": [architecture]}))
    with pytest.raises(ConfigurationError, match=said):
        choose_engine(folder(copy), LoadOptions(backend=backend))


@pytest.mark.parametrize("backend", ["torch", "vllm"])
def test_a_folder_without_a_tokenizer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(choice, "unfit", lambda architecture: None)
    copy = Path(shutil.copytree(DEMO / "safetensors", tmp_path / "m"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    (copy / "special_tokens_map.json").write_text("{}")
    options = LoadOptions(backend=backend)
    says = r"m/tokenizer\.json does not exist, nor .*tokenizer_config\.json, .* --tokenizer"
    with pytest.raises(ModelFileError, match=says):
        choose_engine(folder(copy), options)
    choose_engine(replace(folder(copy), tokenizer=folder()), options)
    (copy / "own.py").touch()
    with pytest.raises(ModelFileError, match=says):
        choose_engine(folder(copy), options)
    choose_engine(folder(copy), LoadOptions(backend=backend, trust_remote_code=True))


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.txt",
        "qwen.tiktoken", "tekken.json", "sentencepiece.bpe.model", "source.spm", "merges.txt",
        "tokenizer.model.v3",
    ],
)  # fmt: skip
def test_what_may_be_a_tokenizer_is_left_to_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(choice, "unfit", lambda architecture: "no")
    copy = Path(shutil.copytree(DEMO / "safetensors", tmp_path / "m"))
    for each in ("tokenizer.json", "tokenizer_config.json"):
        (copy / each).unlink()
    (copy / name).write_text("{}")
    assert choose_engine(folder(copy), LoadOptions()).name == "torch"
    (copy / name).unlink()
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"tokenizer_class": "ByT5Tokenizer"}))
    assert choose_engine(folder(copy), LoadOptions()).name == "torch"
