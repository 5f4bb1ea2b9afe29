"""`openllm.LLM` and the variables OPEN_LLM_*."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import openllm
from openllm.config import models_dir
from openllm.config.download import DownloadOptions
from openllm.config.model import RequestDefaults
from openllm.errors import ConfigurationError

pytestmark = pytest.mark.spec("S1-22")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is as before afterwards."""
    monkeypatch.setenv("BENTOML_HOME", "/before")
    monkeypatch.setattr(models_dir, "_set", None)


def test_variables_reach_both_ways_of_generating(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPEN_LLM_MAX_TOKENS", "3")
    monkeypatch.setenv("OPEN_LLM_TEMPERATURE", "0")
    with openllm.LLM("demo") as llm:
        whole = llm.sync_generate("Once upon a time").outputs[0]
        assert (len(whole.token_ids), whole.finish_reason) == (3, "length")
        parts = [each.outputs[0] for each in llm.sync_generate_iterator("Once upon a time")]
        assert parts[-1].token_ids == whole.token_ids
        assert len(llm.sync_generate("Once upon", max_new_tokens=5).outputs[0].token_ids) == 5


def test_the_nearest_word_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(**options: int) -> RequestDefaults:
        return openllm.LLM("qwen3:4b", **options).config.defaults

    brought = asked()
    assert (brought.top_k, brought.temperature) == (20, 0.6)
    for number, model in enumerate(("", "QWEN3_", "QWEN3_4B_"), 1):
        monkeypatch.setenv(f"OPEN_LLM_{model}TOP_K", str(number))
        assert asked().top_k == number
        assert asked().temperature == brought.temperature
    assert asked(top_k=9).top_k == 9
    assert openllm.LLM("demo").config.defaults.top_k == 1


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("OPEN_LLM_TEMPERATURE", "3", "OPEN_LLM_TEMPERATURE '3' must be a number from 0 to 1"),
        ("OPEN_LLM_TEMPRATURE", "0", "did you mean OPEN_LLM_TEMPERATURE"),
        ("OPEN_LLM_DMEO_TPO_K", "1", "OPEN_LLM_DMEO_TPO_K: there is no such option"),
        ("OPEN_LLM_DEMO_TPO_K", "1", "did you mean OPEN_LLM_DEMO_TOP_K"),
        ("OPEN_LLM_DEMO_DTYPE", "half", "which has no option 'dtype'"),
        ("OPEN_LLM_DEMO_REVISION", "main", "revision"),
        ("OPEN_LLM_MODELS_DIR", "/dev/null", "models_dir '/dev/null': this is a file"),
    ],
)
def test_mistakes(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=says):
        openllm.LLM("demo")


def test_what_is_for_all_models_and_of_no_use_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"DTYPE": "half", "REVISION": "main", "PORT": "99"}.items():
        monkeypatch.setenv(f"OPEN_LLM_{name}", value)
    assert openllm.LLM("demo").backend == "llamacpp"


def test_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPEN_LLM_OFFLINE", "true")
    with pytest.raises(ConfigurationError, match="the network must not be used"):
        openllm.LLM("org/name").sync_generate("hi")
    whole = DownloadOptions(revision="v1")
    assert openllm.LLM("org/name", download=whole)._source._download is whole
    monkeypatch.delenv("OPEN_LLM_OFFLINE")
    with pytest.raises(ConfigurationError, match=r"openllm pull org/name@v2"):
        openllm.LLM("org/name", offline=True, revision="v2").sync_generate("hi")


@pytest.mark.usefixtures("store")
def test_the_folder_of_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPEN_LLM_MODELS_DIR", str(tmp_path / "models"))
    openllm.LLM("demo")
    assert os.environ["BENTOML_HOME"] == str(tmp_path / "models")


def test_a_value_for_single_models_reaches_those_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPEN_LLM_DEVICE", "demo:cpu,qwen3:4b:gpu:0,nobody:mps")
    monkeypatch.setenv("OPEN_LLM_REVISION", "nobody:v1,name:v2")
    assert openllm.LLM("demo").config.load.device == "cpu"
    assert openllm.LLM("qwen3:4b").config.load.device == "cuda:0"
    llm = openllm.LLM("org/name")
    assert llm.config.load.device is None
    assert str(llm._source._ref) == "name=org/name@v2"
