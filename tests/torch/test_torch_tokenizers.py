"""A tokenizer that is not the model's own, SentencePiece itself, and code in the model's folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import openllm
from openllm.config.model import LoadOptions
from openllm.engines.hf_encode import affixes
from openllm.engines.hf_tokens import TokenTable
from openllm.engines.torch_tokenizer import load_tokenizer
from openllm.errors import (
    ConfigurationError,
    EngineStartError,
    InvalidRequestError,
    ModelFileError,
    UnsupportedError,
)
from tests.torch.checkpoints import TEMPLATE, make_checkpoint, make_tokenizer
from tests.torch.hf_tokenizers import TEXT, llama

OPTIONS: dict[str, Any] = {"backend": "torch", "dtype": "float32", "threads": 1}
ASKED = [{"role": "user", "content": "What do you say?"}]


def words_of(folder: Path, template: str) -> Path:
    """Write a tokenizer alone, whose ids are not those of the model's own, and a template."""
    tokenizer = make_tokenizer("bytes")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.anyio
@pytest.mark.spec("S2-20")
async def test_another_tokenizer_reads_and_writes_the_text(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path / "model")
    words = words_of(tmp_path / "words", TEMPLATE.replace("<|im_start|>", "SAYS "))
    own, other = (AutoTokenizer.from_pretrained(each) for each in (folder, words))
    async with openllm.LLM(folder, tokenizer=str(words), **OPTIONS) as llm:
        answer = await llm.generate("that is the one", max_new_tokens=8, temperature=0.0)
        assert answer.prompt_token_ids == other("that is the one").input_ids
        assert answer.prompt_token_ids != own("that is the one").input_ids
        (output,) = answer.outputs
        assert output.text == other.decode(output.token_ids, skip_special_tokens=True) != ""
        chat = await llm.generate(messages=ASKED, max_new_tokens=1)
        assert chat.prompt is not None
        assert chat.prompt.startswith("SAYS user")


@pytest.mark.spec("S2-20")
def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path / "model")
    words = words_of(tmp_path / "words", TEMPLATE)
    many = AutoTokenizer.from_pretrained(words)
    many.add_tokens([f"more{number}" for number in range(100)])
    many.save_pretrained(words)
    with (
        pytest.raises(ConfigurationError, match=rf"{len(many)} tokens and the model knows") as said,
        openllm.LLM(folder, tokenizer=str(words), **OPTIONS),
    ):
        pass
    assert said.value.param == "tokenizer"


@pytest.mark.reliability("C-20")
def test_a_token_of_its_own_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    """On a card it would end the engine."""
    folder = make_checkpoint("llama", tmp_path / "model")
    own = AutoTokenizer.from_pretrained(folder)
    own.add_tokens(["<more>"])
    own.save_pretrained(folder)
    with openllm.LLM(folder, **OPTIONS) as llm:
        with pytest.raises(InvalidRequestError, match=rf"{len(own) - 1} is no token id") as said:
            llm.sync_generate("one <more>", max_new_tokens=1)
        assert said.value.param == "prompt"
        assert llm.sync_generate("one more", max_new_tokens=1).finished


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    """A tokenizer by SentencePiece with its `tokenizer.model`, as Llama 2 has it."""
    original = tmp_path / "original"
    original.mkdir()
    llama(original).save_pretrained(tmp_path / "saved")
    shutil.copyfile(original / "tokenizer.model", tmp_path / "saved" / "tokenizer.model")
    return tmp_path / "saved"


@pytest.mark.spec("S2-20")
def test_slow_is_sentencepiece_itself_and_reads_the_same(pieces: Path) -> None:
    fast = load_tokenizer(str(pieces), LoadOptions())
    slow = load_tokenizer(str(pieces), LoadOptions(tokenizer_mode="slow"))
    assert fast.is_fast
    assert not slow.is_fast
    assert affixes(slow) == affixes(fast) == ([fast.bos_token_id], [])
    tables = TokenTable(fast), TokenTable(slow)
    for text in TEXT[:7]:
        quick, exact = (table.prompt_ids(text) for table in tables)
        assert exact == quick
        assert tables[1].decode(exact) == tables[0].decode(quick)


@pytest.mark.anyio
@pytest.mark.spec("S2-20")
async def test_a_slow_tokenizer_serves_the_same_text(pieces: Path, tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(640)
    model.save_pretrained(folder)
    said = []
    for mode in ("auto", "slow"):
        given = {"tokenizer": str(pieces), "tokenizer_mode": mode}
        async with openllm.LLM(folder, **given, **OPTIONS) as llm:
            assert llm.tokenizer.is_fast == (mode == "auto")
            asked = {"max_new_tokens": 16, "temperature": 0.0, "ignore_eos": True}
            answer = await llm.generate("Une crème", **asked)
            (output,) = answer.outputs
            said.append((answer.prompt_token_ids, output.token_ids, output.text))
            if mode == "slow":
                with pytest.raises(UnsupportedError, match="tokenizer_mode slow"):
                    await llm.generate("x", grammar='root ::= "a"')
    assert said[0] == said[1]


@pytest.mark.spec("S2-20")
def test_slow_is_refused_where_there_is_none(tmp_path: Path) -> None:
    words = words_of(tmp_path, TEMPLATE)
    with pytest.raises(ConfigurationError, match=r"no tokenizer.model in") as caught:
        load_tokenizer(str(words), LoadOptions(tokenizer_mode="slow"))
    assert caught.value.param == "tokenizer_mode"


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    words = words_of(tmp_path, TEMPLATE)
    (words / "tokenizer.json").write_text("{}")
    with pytest.raises(EngineStartError, match="cannot load the tokenizer in"):
        load_tokenizer(str(words), LoadOptions())


OWN = """
import pathlib
pathlib.Path({canary!r}).write_text("ran")
from transformers import LlamaForCausalLM
class OwnForCausalLM(LlamaForCausalLM):
    pass
"""


@pytest.mark.spec("S2-18")
@pytest.mark.reliability("S-22")
def test_code_in_the_folder_runs_only_if_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    folder, canary = make_checkpoint("llama", tmp_path / "model"), tmp_path / "canary"
    (folder / "own.py").write_text(OWN.format(canary=str(canary)))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match="trust_remote_code"):
        openllm.LLM(folder, **OPTIONS)
    assert not canary.exists()
    with openllm.LLM(folder, trust_remote_code=True, **OPTIONS) as llm:
        assert type(llm.model).__name__ == "OwnForCausalLM"
        assert llm.sync_generate("hi", max_new_tokens=2).finished
    assert canary.exists()
