from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from openllm.engines.llamacpp_engine import LlamaCppEngine
from openllm.types import LocalModel
from tests.contract.subject import write_random_llama
from tests.unit.engines.llamas import started


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A tiny Llama of random weights; its training context is 2,048 tokens."""
    path: Path = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    write_random_llama(path)
    return LocalModel(name="tiny", path=str(path), format="gguf")


@pytest.fixture
async def llama(tiny_llama: LocalModel, anyio_backend: str) -> AsyncIterator[LlamaCppEngine]:
    """It, loaded with four slots of 512 tokens."""
    async with started(tiny_llama) as engine:
        yield engine
