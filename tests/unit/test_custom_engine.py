"""An engine is one class behind the door."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest

import openllm.engines
from openllm.config.model import LoadOptions
from openllm.engines import EngineKind, create_engine
from openllm.types import (
    Capabilities,
    CompletionChunk,
    EmbeddingOutput,
    GenerateRequest,
    LocalModel,
    Prompt,
    SamplingParams,
    Usage,
)


class ShoutingEngine:
    """Answers every prompt in capitals."""

    def __init__(self, model: LocalModel, options: LoadOptions) -> None:
        self.capabilities = Capabilities(
            engine=model.name,
            engine_version="1",
            context_length=100,
            max_concurrency=options.max_concurrency,
        )

    async def start(self) -> None: ...

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        text = str(request.prompt).upper()
        yield CompletionChunk(0, text, finish_reason="stop", usage=Usage(1, 1))

    async def embed(self, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        return EmbeddingOutput(tuple(b"\0\0\0\0" for _ in inputs), len(inputs))

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        return [ord(char) for char in text]

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    async def health(self) -> bool:
        return True

    async def close(self) -> None: ...


@pytest.mark.anyio
@pytest.mark.spec("S3-32")
async def test_one_class_and_one_line_in_the_table_add_an_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = EngineKind("tests.unit.test_custom_engine:ShoutingEngine", ("gguf",))
    monkeypatch.setitem(openllm.engines.ENGINES, "loud", kind)
    model = LocalModel(name="loud", path="/x.gguf", format="gguf")
    engine = create_engine("loud", model, LoadOptions())
    await engine.start()
    request = GenerateRequest(request_id="r", prompt="hello", params=SamplingParams())
    async with aclosing(engine.generate(request)) as chunks:
        assert [chunk.text async for chunk in chunks] == ["HELLO"]
    assert engine.capabilities.engine == "loud"
