from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from openllm.engines.vllm_engine import VLLMEngine
from tests.vllm.serving import started


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def engine(anyio_backend: str) -> AsyncIterator[VLLMEngine]:
    """The package's model, with a KV cache that one full context fills."""
    async with started(kv_cache_tokens=512) as engine:
        yield engine
