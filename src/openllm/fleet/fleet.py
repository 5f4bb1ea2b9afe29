"""The fleet: every served model by name."""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence

from openllm.config.model import ModelConfig, RequestDefaults
from openllm.errors import EngineError, ModelNotFoundError, OpenLLMError
from openllm.fleet.served import ModelStatus, ServedModel
from openllm.types import CompletionChunk, EmbeddingOutput, GenerateRequest, LocalModel, Prompt

logger = logging.getLogger("openllm.fleet")

MAX_WAITING = 512


class Fleet:
    """Starts, queues for and restarts models; the first one answers requests that name none."""

    def __init__(
        self,
        models: Sequence[LocalModel],
        configs: Mapping[str, ModelConfig] | None = None,
        *,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        configs = configs or {}
        self._served = {
            model.name: ServedModel(model, configs.get(model.name, ModelConfig()), max_waiting)
            for model in models
        }

    @property
    def ready(self) -> bool:
        """Whether every model is ready."""
        return all(served.state == "ready" for served in self._served.values())

    def statuses(self) -> tuple[ModelStatus, ...]:
        return tuple(served.status() for served in self._served.values())

    def status(self, name: str) -> ModelStatus:
        return self._find(name).status()

    def defaults(self, name: str) -> RequestDefaults:
        """The sampling values of requests to this model that leave them out."""
        return self._find(name).config.defaults

    def resolve(self, name: str | None) -> str:
        """Return the served name that a request means; without a name the first model.

        Raises:
            ModelNotFoundError: It is not served here.
        """
        if not name:
            return next(iter(self._served))
        return self._find(name).model.name

    async def start(self) -> dict[str, OpenLLMError]:
        """Load all models at once; return what went wrong by model."""
        results = await asyncio.gather(
            *(served.start() for served in self._served.values()), return_exceptions=True
        )
        failures: dict[str, OpenLLMError] = {}
        for name, result in zip(self._served, results, strict=True):
            if isinstance(result, OpenLLMError):
                failures[name] = result
            elif isinstance(result, Exception):
                logger.error("model %r failed to start", name, exc_info=result)
                failures[name] = EngineError(f"starting model {name!r} failed: {result!r}")
            elif isinstance(result, BaseException):
                raise result
        return failures

    async def close(self) -> None:
        """End every runner. Safe to call twice."""
        await asyncio.gather(*(served.close() for served in self._served.values()))

    def generate(
        self, name: str, request: GenerateRequest
    ) -> AsyncGenerator[CompletionChunk, None]:
        """Queue for the model and yield deltas; see `openllm.engines.base.Engine.generate`."""
        return self._find(name).generate(request)

    async def embed(self, name: str, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        async with self._find(name).lend() as runner:
            return await runner.embed(inputs)

    async def tokenize(self, name: str, text: str, *, special: bool) -> list[int]:
        async with self._find(name).lend() as runner:
            return await runner.tokenize(text, special=special)

    async def detokenize(self, name: str, token_ids: Sequence[int]) -> str:
        async with self._find(name).lend() as runner:
            return await runner.detokenize(token_ids)

    def pids(self) -> dict[str, int | None]:
        """The process of each model's runner."""
        return {name: served.pid for name, served in self._served.items()}

    def _find(self, name: str) -> ServedModel:
        if served := self._served.get(name):
            return served
        known = ", ".join(self._served)
        close = difflib.get_close_matches(name, self._served, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        shown = name if len(name) <= 80 else name[:80] + "…"
        raise ModelNotFoundError(
            f"model {shown!r} is not served here{hint} Served models: {known}", param="model"
        )
