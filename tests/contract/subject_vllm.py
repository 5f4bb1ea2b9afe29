"""vLLM as a subject of the contract: the safetensors of the model that the package carries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openllm
from openllm.config.model import LoadOptions
from openllm.engines.vllm_engine import VLLMEngine
from openllm.types import LocalModel
from tests.contract.subject import POLYGLOT, Subject

FOLDER = Path(openllm.__file__).parent / "demo" / "safetensors"
# float32, as rounding must not change an answer; blocks as small as vLLM has them on a CPU.
OPTIONS = LoadOptions(
    context_length=512,
    max_concurrency=4,
    dtype="float32",
    enforce_eager=True,
    engine_arg=("block_size=32",),
)


@asynccontextmanager
async def vllm(_folder: Path) -> AsyncIterator[Subject]:
    """It, computing eagerly: compiling takes a minute."""
    engine = VLLMEngine(LocalModel(name="demo", path=str(FOLDER), format="safetensors"), OPTIONS)
    try:
        await engine.start()
        yield Subject(engine, "The", lambda: engine.active, POLYGLOT)
    finally:
        await engine.close()
