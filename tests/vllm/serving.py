"""The package's model on vLLM, and short ways to ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import openllm
from openllm.config.model import LoadOptions
from openllm.engines.vllm_engine import VLLMEngine
from openllm.types import (
    CompletionChunk,
    GenerateRequest,
    LocalModel,
    Prompt,
    SamplingParams,
    TokenLogprob,
)
from tests.processes import command_of

FOLDER = Path(openllm.__file__).parent / "demo" / "safetensors"


@dataclass
class Answer:
    """One sequence, collected."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    last: CompletionChunk | None = None


def vllm(folder: Path = FOLDER, **options: Any) -> VLLMEngine:
    """Return an engine that is not started; eager, as compiling takes a minute."""
    given = {"context_length": 512, "max_concurrency": 4, "enforce_eager": True, "threads": 1}
    model = LocalModel(name="demo", path=str(folder), format="safetensors")
    return VLLMEngine(model, LoadOptions.model_validate(given | {"dtype": "float32"} | options))


@asynccontextmanager
async def started(folder: Path = FOLDER, **options: Any) -> AsyncIterator[VLLMEngine]:
    engine = vllm(folder, **options)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


def request(prompt: Prompt, **params: Any) -> GenerateRequest:
    return GenerateRequest(request_id="test", prompt=prompt, params=SamplingParams(**params))


async def answers(engine: VLLMEngine, prompt: Prompt, **params: Any) -> list[Answer]:
    found = [Answer() for _ in range(params.get("n", 1))]
    async with aclosing(engine.generate(request(prompt, **params))) as chunks:
        async for chunk in chunks:
            answer = found[chunk.index]
            answer.text += chunk.text
            answer.token_ids += chunk.token_ids
            answer.logprobs += chunk.logprobs or ()
            answer.last = chunk
    return found


async def ask(engine: VLLMEngine, prompt: Prompt, **params: Any) -> Answer:
    (answer,) = await answers(engine, prompt, **params)
    return answer


def engine_processes(parent: int | None = None) -> list[psutil.Process]:
    """Return the processes below `parent`, this one by default, in which vLLM computes.

    Others come and go at any moment: Python and vLLM ask `file` and `lscpu` about the machine.
    """
    return [each for each in psutil.Process(parent).children(recursive=True) if _computes(each)]


def _computes(process: psutil.Process) -> bool:
    words = " ".join(command_of(process))
    return "multiprocessing.spawn" in words or words.startswith("VLLM::EngineCore")
