"""Real llama.cpp engines for tests: started, asked, and their answers collected."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from openllm.config.model import LoadOptions
from openllm.engines.llamacpp_engine import LlamaCppEngine
from openllm.types import (
    CompletionChunk,
    FinishReason,
    GenerateRequest,
    LocalModel,
    Prompt,
    SamplingParams,
    TokenLogprob,
    Usage,
)

SMALL: dict[str, Any] = {"context_length": 512, "max_concurrency": 4, "threads": 1}


@asynccontextmanager
async def started(model: LocalModel, **options: Any) -> AsyncIterator[LlamaCppEngine]:
    engine = LlamaCppEngine(model, LoadOptions(**(SMALL | options)))
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


def request(prompt: Prompt = "Hello", **params: Any) -> GenerateRequest:
    return GenerateRequest(request_id="r", prompt=prompt, params=SamplingParams(**params))


@dataclass
class Said:
    """What one sequence said."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: list[FinishReason] = field(default_factory=list)
    usage: Usage | None = None


async def collect(
    engine: LlamaCppEngine, prompt: Prompt = "Hello", **params: Any
) -> list[CompletionChunk]:
    async with aclosing(engine.generate(request(prompt, **params))) as chunks:
        return [chunk async for chunk in chunks]


async def say(engine: LlamaCppEngine, prompt: Prompt = "Hello", **params: Any) -> Said:
    """Collect the answer of one sequence."""
    (said,) = await say_all(engine, prompt, **params)
    return said


async def say_all(engine: LlamaCppEngine, prompt: Prompt = "Hello", **params: Any) -> list[Said]:
    answers = [Said() for _ in range(params.get("n", 1))]
    for chunk in await collect(engine, prompt, **params):
        said = answers[chunk.index]
        said.text += chunk.text
        said.ids += chunk.token_ids
        said.logprobs += chunk.logprobs or ()
        said.finish += [chunk.finish_reason] if chunk.finish_reason else []
        said.usage = chunk.usage or said.usage
    return answers


async def greedy(
    engine: LlamaCppEngine, prompt: Prompt = "Hello", max_tokens: int = 16, **params: Any
) -> Said:
    return await say(engine, prompt, temperature=0.0, max_tokens=max_tokens, **params)
