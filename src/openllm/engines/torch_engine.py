"""The engine door over transformers models, with continuous batching of our own.

A thread computes (`torch_worker`), a scheduler says what (`torch_scheduler`), a window of keys and
values lets requests join and leave at any step (`torch_cache`). Only the door is async.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

from openllm.config.model import LoadOptions
from openllm.engines.openmp import waiting
from openllm.engines.request_checks import check_ranges, check_token, check_tokens, too_long
from openllm.errors import (
    ContextLengthError,
    EngineUnavailableError,
    InvalidRequestError,
    UnsupportedError,
)
from openllm.types import (
    Capabilities,
    CompletionChunk,
    EmbeddingOutput,
    GenerateRequest,
    LocalModel,
    Prompt,
)

if TYPE_CHECKING:
    from openllm.engines.torch_sequence import Job
    from openllm.engines.torch_session import TorchSession
    from openllm.engines.torch_worker import Worker

LONG_TEXT = 20_000
"""Characters from which on tokenizing is done in a thread: it would hold the event loop."""


class TorchEngine:
    """A transformers model, causal or encoder-decoder."""

    def __init__(self, model: LocalModel, options: LoadOptions) -> None:
        self._model = model
        self._options = options
        self._worker: Worker | None = None
        self._session: TorchSession | None = None

    @property
    def capabilities(self) -> Capabilities:
        import torch
        import transformers

        session = self._started()
        return Capabilities(
            engine="torch",
            engine_version=f"{torch.__version__} transformers {transformers.__version__}",
            context_length=session.context_length,
            max_concurrency=session.max_concurrency,
            max_embedding_tokens=session.context_length if self._options.embeddings else 0,
            structured_output=True,
        )

    @property
    def model(self) -> Any:
        """The transformers model, once started."""
        return self._started().model

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer, once started."""
        return self._started().tokenizer

    @property
    def active(self) -> int:
        """Sequences that run or wait."""
        scheduler = self._started().scheduler
        return scheduler.running + scheduler.waiting

    async def start(self) -> None:
        """Load the model on the worker's thread; see `torch_load.load_model`."""
        os.environ.update(waiting())  # Read once, when PyTorch is first imported.
        from openllm.engines.torch_session import TorchSession
        from openllm.engines.torch_worker import Worker

        self._worker = Worker()
        try:
            self._session = await self._worker.call(
                lambda: TorchSession(self._model, self._options)
            )
        except BaseException:
            await self.close()
            raise
        self._worker.scheduler = self._session.scheduler

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        """Yield the chunks of a prompt's answer; see `openllm.engines.base.Engine`."""
        session, worker = self._started(), self._running()
        job = await self._job(session, request)
        worker.add(job)
        unfinished = request.params.n
        try:
            while unfinished:
                chunk = await job.chunks.next()
                unfinished -= chunk.finish_reason is not None
                yield chunk
        finally:
            if unfinished:
                worker.cancel(job)

    async def embed(self, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        """Embed each input: pooled last hidden states of unit length."""
        session = self._started()
        if not self._options.embeddings:
            raise UnsupportedError(
                f"model {self._model.name!r} was started without embeddings", param="model"
            )
        prompts = [self._prompt_ids(session, prompt, closed=True) for prompt in inputs]
        for ids in prompts:
            if len(ids) > session.context_length:
                raise self._too_long(ids, session.context_length)
        vectors = await self._running().call(lambda: session.embedder.embed(prompts))
        return EmbeddingOutput(tuple(vectors), sum(map(len, prompts)))

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        table = self._started().table
        if len(text) > LONG_TEXT:
            return await asyncio.to_thread(table.encode, text, special=special)
        return table.encode(text, special=special)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        session = self._started()
        return session.table.detokenize(
            check_token(each, session.vocab_size, "token_ids") for each in token_ids
        )

    async def health(self) -> bool:
        return self._worker is not None and self._worker.healthy

    async def close(self) -> None:
        if self._worker is not None:
            worker, self._worker, self._session = self._worker, None, None
            await worker.close()

    def _started(self) -> TorchSession:
        if self._session is None:
            raise EngineUnavailableError(f"model {self._model.name!r} is not loaded")
        return self._session

    def _running(self) -> Worker:
        if self._worker is None:
            raise EngineUnavailableError(f"model {self._model.name!r} is not loaded")
        return self._worker

    async def _job(self, session: TorchSession, request: GenerateRequest) -> Job:
        """Check a request and make its sequences; long texts and grammars in a thread."""
        params = request.params
        check_ranges(params)
        check_tokens(params, session.vocab_size)
        long = isinstance(request.prompt, str) and len(request.prompt) > LONG_TEXT
        if long or params.json_schema is not None or params.grammar is not None:
            return await asyncio.to_thread(self._make_job, session, request)
        return self._make_job(session, request)

    def _make_job(self, session: TorchSession, request: GenerateRequest) -> Job:
        from openllm.engines.torch_sampling import SequenceSampling
        from openllm.engines.torch_sequence import Job, Sequence

        params = request.params
        prompt = self._prompt_ids(session, request.prompt)
        room = session.context_length - len(prompt)
        if room < 1:
            raise self._too_long(prompt, session.context_length - 1)
        ends = frozenset(params.stop_token_ids)
        ends |= frozenset() if params.ignore_eos else session.ends
        job = Job(params, prompt, ends, min(params.max_tokens or room, room))
        grammared = params.json_schema is not None or params.grammar is not None
        for index in range(params.n):
            grammar = session.grammars().compile(params) if grammared else None
            sampling = SequenceSampling(params, index, prompt, session.vocab_size, grammar)
            job.sequences.append(Sequence(job, index, sampling, session.table))
        return job

    def _prompt_ids(
        self, session: TorchSession, prompt: Prompt, *, closed: bool | None = None
    ) -> list[int]:
        if not isinstance(prompt, str):
            for part in prompt:
                if isinstance(part, int):
                    check_token(part, session.vocab_size, "prompt")
        ids = session.table.prompt_ids(prompt, closed=closed)
        if not ids:
            raise InvalidRequestError(
                "the prompt is empty; give at least one character or token", param="prompt"
            )
        return ids

    def _too_long(self, ids: Sequence[int], most: int) -> ContextLengthError:
        return too_long(len(ids), self._model.name, self._started().context_length, most)
