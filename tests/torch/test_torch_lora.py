"""LoRA adapters on the torch engine, over the kinds of layers that architectures have."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.pytorch_utils import Conv1D

from openllm.errors import EngineStartError
from openllm.types import LocalModel
from tests.contract.subject import Subject, started
from tests.lora import ALPHA, RANK, find_adapters, write_peft
from tests.torch.checkpoints import greedy_alone, make_checkpoint

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.spec("S0-27"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
]

PROMPTS = ((5, 6, 7, 8, 9, 10, 11, 12), (40, 41, 42), (100, 90, 80, 70, 60))
TOKENS = 10
ARCHITECTURES = (
    "BloomForCausalLM",
    "FalconForCausalLM/7b",
    "GPT2LMHeadModel",
    "GPTBigCodeForCausalLM",
    "GPTNeoXForCausalLM",
    "MixtralForCausalLM",
    "OPTForCausalLM",
    "Phi3ForCausalLM",
    "Qwen3ForCausalLM",
    "T5ForConditionalGeneration",
)


def loaded(folder: Path) -> Any:
    seq2seq = AutoConfig.from_pretrained(folder).is_encoder_decoder
    auto = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32)


def make_adapter(base: Path, folder: Path, seed: int, size: float = 0.2) -> tuple[Path, Path]:
    """Write an adapter for every linear layer but the last, and the model that has it merged."""
    random = np.random.default_rng(seed)
    model = loaded(base)
    head = model.get_output_embeddings()
    layers = {}
    for name, module in model.named_modules():
        if not isinstance(module, (torch.nn.Linear, Conv1D)) or module is head:
            continue
        out, into = (
            module.weight.shape if hasattr(module, "in_features") else module.weight.t().shape
        )
        down = random.standard_normal((RANK, into), np.float32) / np.float32(into**0.5)
        up = random.standard_normal((out, RANK), np.float32) * np.float32(size)
        layers[name] = down, up
        added = torch.from_numpy(up @ down) * (ALPHA / RANK)
        with torch.no_grad():
            module.weight += added if hasattr(module, "in_features") else added.t()
    merged = shutil.copytree(base, folder / "merged")
    model.save_pretrained(merged)
    return write_peft(folder / "adapter", layers), merged


def local(folder: Path, *adapters: str) -> LocalModel:
    found = find_adapters(adapters)
    return LocalModel(name="tiny", path=str(folder), format="safetensors", adapters=found)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
async def test_rows_of_one_batch_have_their_own_adapters(architecture: str, tmp_path: Path) -> None:
    base = make_checkpoint(architecture, tmp_path / "base")
    expected = {"": greedy_alone(base, PROMPTS, TOKENS)}
    adapters = []
    for seed, name in enumerate(("one", "two"), 2):
        path, merged = make_adapter(base, tmp_path / name, seed)
        expected[name] = greedy_alone(merged, PROMPTS, TOKENS)
        adapters.append(f"{name}={path}")
    asked = [(name, at) for at in range(len(PROMPTS)) for name in expected] * 2
    async with started("torch", local(base, *adapters), dtype="float32") as engine:
        subject = Subject(engine, "", lambda: engine.active, {})
        answers = await asyncio.gather(
            *(subject.greedy(PROMPTS[at], TOKENS, adapter=name) for name, at in asked)
        )
    assert len({str(said) for said in expected.values()}) == 3
    assert [answer.token_ids for answer in answers] == [
        expected[name][at][: len(answer.token_ids)]
        for (name, at), answer in zip(asked, answers, strict=True)
    ]


async def test_an_adapter_without_a_name_is_always_on(tmp_path: Path) -> None:
    base = make_checkpoint("LlamaForCausalLM", tmp_path / "base")
    path, merged = make_adapter(base, tmp_path, 0)
    async with started("torch", local(base, str(path)), dtype="float32") as engine:
        subject = Subject(engine, "", lambda: engine.active, {})
        said = [(await subject.greedy(prompt, TOKENS)).token_ids for prompt in PROMPTS]
        embedded = await engine.embed(["one two three"])
    assert said == greedy_alone(merged, PROMPTS, TOKENS)
    async with started("torch", local(merged), dtype="float32") as engine:
        alone = await engine.embed(["one two three"])
    found, wanted = (np.frombuffer(each.vectors[0], np.float32) for each in (embedded, alone))
    assert np.allclose(found, wanted, atol=1e-5)


async def test_a_named_adapter_does_not_change_embeddings(tmp_path: Path) -> None:
    base = make_checkpoint("LlamaForCausalLM", tmp_path / "base")
    path, _ = make_adapter(base, tmp_path, 0)
    async with started("torch", local(base, f"one={path}"), dtype="float32") as engine:
        subject = Subject(engine, "", lambda: engine.active, {})
        await subject.greedy(PROMPTS[0], 2, adapter="one")
        embedded = await engine.embed(["one two three"])
    async with started("torch", local(base), dtype="float32") as engine:
        assert await engine.embed(["one two three"]) == embedded


async def test_packed_weights_have_adapters_too(tmp_path: Path) -> None:
    """In bfloat16 on a CPU, where linear layers are other objects."""
    base = make_checkpoint("LlamaForCausalLM", tmp_path / "base")
    path, _ = make_adapter(base, tmp_path, 0, size=1.0)
    async with started("torch", local(base, f"one={path}"), dtype="bfloat16") as engine:
        subject = Subject(engine, "", lambda: engine.active, {})
        plain = (await subject.greedy(PROMPTS[0], TOKENS)).token_ids
        adapted = (await subject.greedy(PROMPTS[0], TOKENS, adapter="one")).token_ids
        assert (await subject.greedy(PROMPTS[0], TOKENS)).token_ids == plain
    assert adapted != plain


async def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    llama = make_checkpoint("LlamaForCausalLM", tmp_path / "llama")
    pair = np.ones((4, 128), np.float32), np.ones((64, 4), np.float32)
    for layer, says in (
        ("model.layers.0.self_attn.o_proj", "go from 128 to 64 values, and the layer from 64 to"),
        ("model.layers.9.mlp.down_proj", "'model.layers.9.mlp.down_proj', which the model has not"),
    ):
        adapter = write_peft(tmp_path / layer, {layer: pair})
        with pytest.raises(EngineStartError, match=f"adapter one .*{re.escape(says)}"):
            async with started("torch", local(llama, f"one={adapter}")):
                pass
