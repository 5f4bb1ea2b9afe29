"""Weights made up by vLLM, a tokenizer from elsewhere, and the types of weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from openllm.engines.vllm_engine import VLLMEngine
from openllm.errors import ConfigurationError
from openllm.types import LocalModel
from tests.vllm.serving import FOLDER, ask, engine_processes, started, vllm

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "model"))


@pytest.mark.spec("S2-22", "S2-23")
@pytest.mark.parametrize("dtype", ["half", "float"])
async def test_a_dummy_needs_no_weights(folder: Path, dtype: str) -> None:
    (folder / "model.safetensors").unlink()
    async with started(folder, load_format="dummy", dtype=dtype, kv_cache_tokens=512) as engine:
        named = {"half": "torch.float16", "float": "torch.float32"}
        assert str(engine._ready().client.model_config.dtype) == named[dtype]
        answer = await ask(engine, "Once", max_tokens=4, ignore_eos=True)
        assert len(answer.token_ids) == 4


def given(engine: VLLMEngine, words: Path) -> VLLMEngine:
    """Return the engine with the tokenizer of another folder."""
    tokenizer = LocalModel(name="words", path=str(words), format="safetensors")
    engine._model = replace(engine._model, tokenizer=tokenizer)
    return engine


@pytest.mark.spec("S2-20")
async def test_the_tokenizer_is_the_given_one(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))
    own = vllm(kv_cache_tokens=512)
    engine = given(vllm(kv_cache_tokens=512), folder)
    try:
        await own.start()
        await engine.start()
        assert await engine.tokenize("a", special=False) == [vocabulary["a"]]
        assert await own.tokenize("a", special=False) == [vocabulary["b"]]
        first = await ask(engine, "b", max_tokens=1, temperature=0.0)
        second = await ask(own, "a", max_tokens=1, temperature=0.0)
        assert first.token_ids == second.token_ids
    finally:
        await own.close()
        await engine.close()


@pytest.mark.spec("S2-20")
async def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    last = {"id": 500_000, "content": "<|last|>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"].append(last | flags)
    vocabulary = content["model"]["vocab"]
    path.write_text(json.dumps(content))
    assert len(vocabulary) < 500_000
    with pytest.raises(ConfigurationError, match="tokens and the model knows") as caught:
        await given(vllm(folder), folder).start()
    assert caught.value.param == "tokenizer"
    assert engine_processes() == []
