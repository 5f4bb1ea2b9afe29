"""The engine door over transformers models, with continuous batching of our own.

A thread computes (`torch_worker`), a scheduler says what (`torch_scheduler`), a window of keys and
values lets requests join and leave at any step (`torch_cache`). Only the door is async.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from openllm.config.model import LoadOptions
from openllm.engines.openmp import waiting
from openllm.engines.prompt_size import aside, is_long
from openllm.engines.request_checks import (
    check_ranges,
    check_token,
    check_tokens,
    input_too_long,
    too_long,
)
from openllm.errors import (
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
            max_embedding_tokens=0 if session.no_vector else session.context_length,
            structured_output=True,
            longest_token=session.table.longest,
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
        # With PyTorch and transformers it takes seconds, in which other models' streams go on.
        await asyncio.to_thread(import_module, "openllm.engines.torch_session")
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
        if session.no_vector:
            raise self._cannot("embed", session.no_vector)
        prompts = await aside(
            is_long(*inputs),
            lambda: [self._prompt_ids(session, prompt, closed=True) for prompt in inputs],
        )
        for ids in prompts:
            if len(ids) > session.context_length:
                raise input_too_long(len(ids), self._model.name, session.context_length)
        return EmbeddingOutput(await self._vectors(session, prompts), sum(map(len, prompts)))

    async def _vectors(
        self, session: TorchSession, prompts: Sequence[Sequence[int]]
    ) -> tuple[bytes, ...]:
        """Embed pass by pass, so that sequences run on in between."""
        from openllm.engines.torch_embed import batches

        vectors = [b""] * len(prompts)
        for rows in batches(prompts):
            part = [prompts[row] for row in rows]
            made = await self._running().call(partial(session.embedder.embed, part))
            for row, vector in zip(rows, made, strict=True):
                vectors[row] = vector
        return tuple(vectors)

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        table = self._started().table
        return await aside(is_long(text), partial(table.encode, text, special=special))

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
        if session.no_text:
            raise self._cannot("generate text", session.no_text)
        check_ranges(params)
        check_tokens(params, session.vocab_size)
        held = params.json_schema is not None or params.grammar is not None
        apart = held or is_long(request.prompt)
        return await aside(apart, partial(self._make_job, session, request))

    def _make_job(self, session: TorchSession, request: GenerateRequest) -> Job:
        from openllm.engines.torch_sampling import SequenceSampling
        from openllm.engines.torch_sequence import Job, Sequence

        params = request.params
        prompt = self._prompt_ids(session, request.prompt)
        room = session.context_length - len(prompt)
        if room < 1:
            most = session.context_length
            raise too_long(len(prompt), self._model.name, most, most - 1)
        ends = frozenset(params.stop_token_ids)
        ends |= frozenset() if params.ignore_eos else session.ends
        limit = min(params.max_tokens or room, room)
        job = Job(params, prompt, ends, limit, request.adapter)
        grammared = params.json_schema is not None or params.grammar is not None
        for index in range(params.n):
            grammar = session.grammars().compile(params) if grammared else None
            sampling = SequenceSampling(params, index, prompt, session.vocab_size, grammar)
            job.sequences.append(Sequence(job, index, sampling, session.table))
        return job

    def _prompt_ids(
        self, session: TorchSession, prompt: Prompt, *, closed: bool | None = None
    ) -> list[int]:
        ids = session.table.prompt_ids(prompt, closed=closed)
        if not ids:
            raise InvalidRequestError(
                "the prompt is empty; give at least one character or token", param="prompt"
            )
        for each in (min(ids), max(ids)):  # Text too may have tokens that the model lacks.
            check_token(each, session.vocab_size, "prompt")
        return ids

    def _cannot(self, act: str, reason: str) -> UnsupportedError:
        return UnsupportedError(
            f"model {self._model.name!r} does not {act}: {reason}; ask another", param="model"
        )
