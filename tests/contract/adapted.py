"""Engines with two LoRA adapters, and what they must answer: what models say whose weights the
adapters were added to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openllm.types import Adapter, LocalModel, Prompt
from tests.contract.subject import RANDOM_LLAMA, Subject, started, write_random_llama
from tests.lora import Lora, find_adapters, matrices, merged, write_gguf, write_peft

PROMPTS = ("Once upon a time", "one two three", "def main():", "Hello!")
NAMES = ("", "one", "two")
TOKENS = 16

Said = dict[str, list[list[int]]]
"""Token ids by adapter, an answer to each prompt."""


@dataclass(frozen=True)
class Adapted:
    """A started engine with the adapters "one" and "two", and what is expected of it."""

    subject: Subject
    prompts: tuple[Prompt, ...]
    expected: Said


@asynccontextmanager
async def llamacpp(folder: Path) -> AsyncIterator[Adapted]:
    """A tiny Llama of random weights; merged ones run on llama.cpp too."""
    loras = _loras(RANDOM_LLAMA.tensor_shapes())
    expected = {}
    for name in NAMES:
        path = folder / f"merged-{name}.gguf"
        write_random_llama(path, loras.get(name), "F16")
        model = LocalModel(name="merged", path=str(path), format="gguf")
        async with started("llamacpp", model) as engine:
            alone = Subject(engine, "", lambda: 0, {})
            expected[name] = [(await alone.greedy(each, TOKENS)).token_ids for each in PROMPTS]
    paths = {name: write_gguf(folder / f"{name}.gguf", lora) for name, lora in loras.items()}
    adapters = tuple(
        Adapter(name=name, path=str(path), format="gguf") for name, path in paths.items()
    )
    path = folder / "merged-.gguf"
    model = LocalModel(name="tiny", path=str(path), format="gguf", adapters=adapters)
    async with started("llamacpp", model) as engine:
        yield Adapted(Subject(engine, "", lambda: engine.active, {}), PROMPTS, expected)


@asynccontextmanager
async def torch(folder: Path) -> AsyncIterator[Adapted]:
    """A tiny Llama of random weights; merged ones run in plain transformers."""
    async with _of_folders("torch", folder) as adapted:
        yield adapted


@asynccontextmanager
async def vllm(folder: Path) -> AsyncIterator[Adapted]:
    """The same on vLLM."""
    async with _of_folders("vllm", folder, enforce_eager=True) as adapted:
        yield adapted


ADAPTED: Mapping[str, Callable[[Path], AbstractAsyncContextManager[Adapted]]] = {
    "llamacpp": llamacpp,
    "torch": torch,
    "vllm": vllm,
}


@asynccontextmanager
async def _of_folders(name: str, folder: Path, **options: Any) -> AsyncIterator[Adapted]:
    from safetensors.numpy import load_file, save_file

    from tests.torch.checkpoints import greedy_alone, make_checkpoint

    path = make_checkpoint("LlamaForCausalLM", folder / "model")
    weights = load_file(path / "model.safetensors")
    loras = _loras({each: array.shape for each, array in weights.items()})
    files = [f"{each}={write_peft(folder / each, lora)}" for each, lora in loras.items()]
    model = LocalModel(
        name="tiny", path=str(path), format="safetensors", adapters=find_adapters(files)
    )
    async with started(name, model, dtype="float32", **options) as engine:
        subject = Subject(engine, "", lambda: engine.active, {})
        prompts = [tuple(await subject.encode(each)) for each in PROMPTS]
        expected = {}
        for adapter in NAMES:
            changed = {
                each: merged(each, array, loras.get(adapter, {})) for each, array in weights.items()
            }
            beside = make_checkpoint("LlamaForCausalLM", folder / f"merged-{adapter}")
            save_file(changed, beside / "model.safetensors", {"format": "pt"})
            expected[adapter] = greedy_alone(beside, prompts, TOKENS)
        yield Adapted(subject, tuple(prompts), expected)


def _loras(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Lora]:
    return {name: matrices(shapes, seed) for seed, name in enumerate(NAMES[1:])}
