"""Greedy answers of the torch engine, from the bundled model or another folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import openllm
from openllm.config.model import LoadOptions
from openllm.engines import create_engine
from openllm.types import GenerateRequest, LocalModel, SamplingParams, Usage

FOLDER = Path(openllm.__file__).parent / "demo" / "safetensors"
NEW = 24


@asynccontextmanager
async def engine(folder: Path = FOLDER, **options: Any) -> AsyncIterator[Any]:
    """Start a model in float32 on the processor; close it at the end."""
    model = LocalModel(name="demo", path=str(folder), format="safetensors")
    asked = {"dtype": "float32", "device": "cpu", "threads": 1} | options
    made = create_engine("torch", model, LoadOptions(**asked))
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def greedy(
    engine: Any, prompt: Sequence[int], delay: float = 0.0, **params: Any
) -> tuple[list[int], Usage]:
    """Return the tokens of all sequences as they came, and the usage of the last to end."""
    await asyncio.sleep(delay)
    asked = {"max_tokens": NEW, "temperature": 0.0, "ignore_eos": True} | params
    request = GenerateRequest(request_id="r", prompt=tuple(prompt), params=SamplingParams(**asked))
    ids: list[int] = []
    usage = Usage(0, 0)
    async with aclosing(engine.generate(request)) as chunks:
        async for chunk in chunks:
            ids += chunk.token_ids
            usage = chunk.usage or usage
    return ids, usage


async def tokens(engine: Any, prompt: Sequence[int], **params: Any) -> list[int]:
    return (await greedy(engine, prompt, **params))[0]
