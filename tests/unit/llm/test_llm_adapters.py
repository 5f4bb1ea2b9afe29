"""`openllm.LLM` with LoRA adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

import openllm
from openllm.errors import ConfigurationError, EngineStartError, InvalidRequestError
from tests.contract.subject import RANDOM_LLAMA
from tests.lora import matrices, write_gguf, write_peft
from tools.llama_gguf import LlamaShape

DEMO = LlamaShape.from_config_json(Path(openllm.__file__).parent / "demo/safetensors/config.json")
PROMPT = "Once upon a time"
LORA = matrices(DEMO.tensor_shapes(), 1)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "sql.gguf", LORA)


def said(llm: openllm.LLM, **options: str) -> str:
    return llm.sync_generate(PROMPT, max_new_tokens=12, temperature=0, **options).outputs[0].text


@pytest.mark.spec("S1-10", "S1-12")
def test_a_call_chooses_an_adapter(gguf: Path, caplog: pytest.LogCaptureFixture) -> None:
    with openllm.LLM("demo") as llm:
        plain = said(llm)
    with (
        caplog.at_level("INFO", "openllm.llm"),
        openllm.LLM("demo", lora={"sql": gguf}) as llm,
    ):
        assert said(llm) == plain
        adapted = said(llm, adapter="sql")
        assert adapted != plain
        assert said(llm) == plain
        with pytest.raises(InvalidRequestError, match="'demo' has no adapter 'sqll': it has sql"):
            said(llm, adapter="sqll")
    assert "demo has the adapter sql" in caplog.text
    with openllm.LLM("demo", lora=f"{gguf}") as llm:  # Without a name it is always on.
        assert said(llm) == adapted


def test_a_model_without_adapters_has_none() -> None:
    with (
        openllm.LLM("demo") as llm,
        pytest.raises(InvalidRequestError, match="has no adapter 'sql': it has none"),
    ):
        said(llm, adapter="sql")
    with pytest.raises(TypeError, match="adapter is 5; give the name of one"):
        llm.sync_generate(PROMPT, adapter=5)  # type: ignore[arg-type]


@pytest.mark.spec("S0-27")
def test_an_adapter_of_another_format_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "peft", LORA)
    with pytest.raises(ConfigurationError, match="is not for llamacpp, which takes a GGUF file"):
        openllm.LLM("demo", lora={"sql": folder})
    with pytest.raises(ConfigurationError, match=r"lora 'sql=/no': /no does not exist"):
        openllm.LLM("demo", lora={"sql": "/no"})


def test_an_adapter_of_another_model_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "other.gguf", matrices(RANDOM_LLAMA.tensor_shapes(), 1))
    with pytest.raises(EngineStartError, match=r"llama.cpp cannot load .*other.gguf"):
        openllm.LLM("demo", lora={"sql": path}).sync_generate(PROMPT)
