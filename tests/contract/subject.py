"""The engines that the contract is held against, each with what the tests need to know of it.

To add an engine, write an async context manager that yields a `Subject` and name it in `SUBJECTS`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import openllm
from openllm.config.model import LoadOptions
from openllm.engines import create_engine
from openllm.engines.base import Engine
from openllm.types import (
    CompletionChunk,
    GenerateRequest,
    LocalModel,
    Prompt,
    SamplingParams,
    TokenLogprob,
    Usage,
)
from tests.lora import Lora, merged
from tools.llama_gguf import LlamaShape, Quantization, write_llama_gguf

# One thread: several wait for each other by spinning, which takes long on a busy machine.
OPTIONS = LoadOptions(context_length=512, max_concurrency=4, threads=1)
DEMO = Path(openllm.__file__).parent / "demo" / "demo-q8_0.gguf"
DEMO_FOLDER = DEMO.parent / "safetensors"

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
PROMPTS = (
    "Once upon a time",
    "The capital of France",
    "one two three",
    "naïve café 日本語 👩‍👩‍👧‍👦",
    "def main():",
    "Hello!",
)
RANDOM_LLAMA = LlamaShape(
    vocab_size=380,
    hidden_size=128,
    layers=2,
    heads=2,
    kv_heads=1,
    intermediate_size=256,
    context_length=2048,
    tied_embeddings=False,
)
_UNIT = '("é" | "日本") "x"? ("👩‍👩‍👧‍👦" | "🚲")'
POLYGLOT = {"prompt": "Hi", "grammar": f"root ::= unit{{40}}\nunit ::= {_UNIT}"}


@dataclass
class Answer:
    """What one sequence said, collected from its chunks."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)
    cumulative_logprob: float = 0.0

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def finish_reason(self) -> str:
        (reason,) = self.finish_reasons
        return reason

    @property
    def usage(self) -> Usage:
        (usage,) = self.usages
        return usage


@dataclass(frozen=True)
class Subject:
    """A started engine.

    Attributes:
        dice: A prompt whose continuation is not certain, so that sampling can be seen.
        busy: Sequences that the engine works on or has waiting.
        polyglot: A request that is answered in characters of several tokens each.
        cache_block: Tokens of a prompt are reused by whole blocks of so many.
        reports_split_tokens: Whether tokens that end inside a character are reported, too.
    """

    engine: Engine
    dice: str
    busy: Callable[[], int]
    polyglot: dict[str, Any]
    reports_split_tokens: bool = True
    cache_block: int = 1

    @property
    def context_length(self) -> int:
        return self.engine.capabilities.context_length

    async def chunks(self, prompt: Prompt, **params: Any) -> list[CompletionChunk]:
        async with aclosing(self.engine.generate(request(prompt, **params))) as stream:
            return [chunk async for chunk in stream]

    async def answers(self, prompt: Prompt, **params: Any) -> list[Answer]:
        found = [Answer() for _ in range(params.get("n", 1))]
        for chunk in await self.chunks(prompt, **params):
            answer = found[chunk.index]
            answer.texts.append(chunk.text)
            answer.token_ids += chunk.token_ids
            answer.logprobs += chunk.logprobs or ()
            answer.cumulative_logprob = chunk.cumulative_logprob
            answer.finish_reasons += [chunk.finish_reason] if chunk.finish_reason else []
            answer.usages += [chunk.usage] if chunk.usage else []
        return found

    async def answer(self, prompt: Prompt, **params: Any) -> Answer:
        (answer,) = await self.answers(prompt, **params)
        return answer

    async def greedy(self, prompt: Prompt, max_tokens: int | None = 32, **params: Any) -> Answer:
        return await self.answer(prompt, temperature=0.0, max_tokens=max_tokens, **params)

    async def encode(self, text: str) -> list[int]:
        return await self.engine.tokenize(text, special=True)

    async def prompt_of(self, length: int) -> tuple[int, ...]:
        """Return a prompt of so many tokens."""
        ids = await self.engine.tokenize("a b c", special=False)
        return tuple(ids[at % len(ids)] for at in range(length))


def request(prompt: Prompt, adapter: str = "", **params: Any) -> GenerateRequest:
    return GenerateRequest(
        request_id="contract", prompt=prompt, params=SamplingParams(**params), adapter=adapter
    )


@asynccontextmanager
async def started(name: str, model: LocalModel, **options: Any) -> AsyncIterator[Any]:
    """Start engine `name` with `model`; close it at the end."""
    engine = create_engine(name, model, OPTIONS.model_copy(update=options))
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def scripted(folder: Path) -> AsyncIterator[Subject]:
    """Long answers that depend on the prompt, with characters of several tokens."""
    faces = {chr(0x1F600 + at): 1 / (1 + at) for at in range(40)}
    script = {
        "rules": [{"match": "^dice", "distribution": faces | {" a": 0.9, "b": 0.8}}],
        "default": {"reply": "I heard: {user}. 👍 So: {user}\n", "repeat": 100},
    }
    path = folder / "contract.script.json"
    path.write_text(json.dumps(script))
    model = LocalModel(name="contract", path=str(path), format="script")
    async with started("scripted", model) as engine:
        polyglot = {"prompt": PROMPTS[3]}
        yield Subject(engine, "dice", lambda: engine.running + engine.waiting, polyglot)


@asynccontextmanager
async def llamacpp(folder: Path) -> AsyncIterator[Subject]:
    """A tiny Llama of random weights, which says ASCII letters unless a grammar makes it not."""
    path = folder / "tiny.gguf"
    write_random_llama(path)
    model = LocalModel(name="tiny", path=str(path), format="gguf")
    async with started("llamacpp", model) as engine:
        yield Subject(engine, "dice", lambda: engine.active, POLYGLOT, False)


@asynccontextmanager
async def demo(_folder: Path) -> AsyncIterator[Subject]:
    """The model that the package carries."""
    model = LocalModel(name="demo", path=str(DEMO), format="gguf")
    async with started("llamacpp", model) as engine:
        yield Subject(engine, "The", lambda: engine.active, POLYGLOT, False)


@asynccontextmanager
async def torch(_folder: Path) -> AsyncIterator[Subject]:
    """The model that the package carries, as safetensors, in float32."""
    model = LocalModel(name="demo", path=str(DEMO_FOLDER), format="safetensors")
    async with started("torch", model, dtype="float32") as engine:
        yield Subject(engine, "The", lambda: engine.active, POLYGLOT)


@asynccontextmanager
async def vllm(_folder: Path) -> AsyncIterator[Subject]:
    """The same model on vLLM."""
    model = LocalModel(name="demo", path=str(DEMO_FOLDER), format="safetensors")
    block = ("block_size=32",)  # As small as vLLM has them on a CPU.
    options = {"dtype": "float32", "enforce_eager": True, "engine_arg": block}
    async with started("vllm", model, **options) as engine:
        yield Subject(engine, "The", lambda: engine.active, POLYGLOT, cache_block=32)


@asynccontextmanager
async def vllm_pooling(_folder: Path) -> AsyncIterator[Subject]:
    """The same model, loaded by vLLM to embed."""
    model = LocalModel(name="demo", path=str(DEMO_FOLDER), format="safetensors")
    options = {"dtype": "float32", "enforce_eager": True, "engine_arg": ("runner=pooling",)}
    async with started("vllm", model, **options) as engine:
        yield Subject(engine, "The", lambda: engine.active, POLYGLOT)


SUBJECTS: dict[str, Callable[[Path], AbstractAsyncContextManager[Subject]]] = {
    "scripted": scripted,
    "llamacpp": llamacpp,
    "demo": demo,
    "torch": torch,
    "vllm": vllm,
}
EMBEDDERS = SUBJECTS | {"vllm": vllm_pooling}
"""vLLM generates or embeds, never both with one loading."""


def write_random_llama(
    path: Path, lora: Lora | None = None, quantization: Quantization = "Q8_0"
) -> None:
    """Write a model whose logits are far apart, so that rounding does not change its answers.

    `lora` is added to its weights.
    """
    shape = RANDOM_LLAMA
    random = np.random.default_rng(0)

    def tensor(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        size = shape.tensor_shapes()[name]
        if len(size) == 1:
            return np.ones(size, np.float32)
        values = random.standard_normal(size, dtype=np.float32) * np.float32(0.1)
        if name == "lm_head.weight":
            values *= 5
            values[94:256] = 0  # Of the bytes, only printable ASCII is ever likely,
            values[-len(CONTROLS) :] = 0  # and no control token is.
        return merged(name, values, lora or {})

    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = byte_tokenizer(shape.vocab_size)
    write_llama_gguf(path, shape, tensor, tokenizer, template, quantization)


def byte_tokenizer(size: int) -> dict[str, Any]:
    """Return a byte-level BPE tokenizer: all bytes, pairs of letters, the control tokens."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [value for value in range(256) if value not in visible]
    chars = [chr(value) for value in visible] + [chr(256 + at) for at in range(len(hidden))]
    pairs = [(one, other) for one in "Ġetaoinshr" for other in "etaoinshrdlu"]
    pairs = pairs[: size - len(chars) - len(CONTROLS)]
    tokens = [*chars, *("".join(pair) for pair in pairs)]
    return {
        "model": {
            "type": "BPE",
            "vocab": {token: at for at, token in enumerate(tokens)},
            "merges": [" ".join(pair) for pair in pairs],
        },
        "added_tokens": [
            {"content": token, "id": size - len(CONTROLS) + at} for at, token in enumerate(CONTROLS)
        ],
    }


def cut(text: str, stops: Sequence[str]) -> str:
    """Return what a text keeps: before the stop string that ends first, the longest of equals."""
    for end in range(1, len(text) + 1):
        found = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(found)]
    return text
