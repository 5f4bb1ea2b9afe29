"""BOS of a conversation: where the chat template writes it, once, and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openllm.config.model import LoadOptions, ModelConfig
from openllm.llm.chat_engine import ChatEngine
from openllm.types import GenerateRequest, LocalModel, Message, SamplingParams
from tests.contract.subject import RANDOM_LLAMA, byte_tokenizer
from tools.llama_gguf import write_llama_gguf

BOS = "<|endoftext|>"
ADDS_BOS = b"tokenizer.ggml.add_bos_token"
SHOWN = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"


@asynccontextmanager
async def started(model: LocalModel) -> AsyncIterator[ChatEngine]:
    chat = ChatEngine(model, ModelConfig(load=LoadOptions(context_length=256, threads=1)))
    try:
        await chat.start()
        yield chat
    finally:
        await chat.close()


def write_model(path: Path, template: str) -> LocalModel:
    """Write a model for llama.cpp whose tokenizer adds BOS by itself."""
    write_llama_gguf(path, RANDOM_LLAMA, _ones, byte_tokenizer(380), template)
    content = bytearray(path.read_bytes())
    content[content.index(ADDS_BOS) + len(ADDS_BOS) + 4] = 1
    path.write_bytes(content)
    return LocalModel(name="tiny", path=str(path), format="gguf")


def _ones(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ones(RANDOM_LLAMA.tensor_shapes()[name], np.float32)


@pytest.mark.anyio
@pytest.mark.parametrize("template", [SHOWN, "{{ bos_token }}" + SHOWN], ids=["none", "written"])
@pytest.mark.parametrize("text", ["Hi", "<|im_end|>Hi", BOS])
async def test_the_engine_adds_none_to_a_conversation(
    text: str, template: str, tmp_path: Path
) -> None:
    async with started(write_model(tmp_path / "tiny.gguf", template)) as chat:
        request = GenerateRequest(
            request_id="chat",
            messages=(Message("user", text),),
            params=SamplingParams(max_tokens=1),
        )
        (bos,) = await chat.tokenize(BOS, special=True)
        ids = await chat.prompt_ids((await chat.render(request, must_fit=True)).prompt)
        assert ids.count(bos) == ids[:1].count(bos) == template.startswith("{{ bos")
        async with aclosing(chat.generate(request)) as chunks:
            usage = [chunk.usage async for chunk in chunks][-1]
        assert usage is not None
        assert usage.prompt_tokens == len(ids)
