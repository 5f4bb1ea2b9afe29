"""vLLM behind the engine door: models in the layout of transformers, on GPUs and on CPUs.

    vllm_presence    whether it could run a model here
    vllm_arguments   our options in its terms, and its own handed through
    vllm_load        a running vLLM, or the reason why not
    vllm_memory      how much the KV cache gets on a CPU
    vllm_logs        what its processes log, in our log
    vllm_child       what of ours runs in its processes
    vllm_request     our request in its terms, every value in range
    vllm_structure   schemas and grammars it can follow
    vllm_stream      its outputs as our chunks
    vllm_errors      its errors as ours

vLLM computes in a process of its own, which ends with ours. A model that generates does not embed:
load it once more with the engine argument `runner=pooling` for that.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from openllm.config.model import LoadOptions
from openllm.engines.prompt_size import aside, is_long
from openllm.engines.request_checks import check_token, input_too_long
from openllm.engines.vllm_logs import LogPipe
from openllm.engines.vllm_request import prompt_ids, token_limit
from openllm.errors import (
    EngineError,
    EngineStartError,
    EngineUnavailableError,
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
    from openllm.engines.vllm_session import Session

logger = logging.getLogger("openllm.engines.vllm")

HEALTH_SECONDS = 30.0  # vLLM answers between two steps, and a step may read a long prompt.


class VLLMEngine:
    """The engine door over vLLM; see the module."""

    def __init__(self, model: LocalModel, options: LoadOptions) -> None:
        self._model = model
        self._options = options
        self._logs: LogPipe | None = None
        self._session: Session | None = None

    @property
    def capabilities(self) -> Capabilities:
        session = self._ready()
        return Capabilities(
            engine="vllm",
            engine_version=session.version,
            context_length=session.model.context,
            max_concurrency=session.places,
            max_embedding_tokens=session.model.context if session.pools else 0,
            structured_output=not session.pools and session.structures.supported,
            longest_token=session.model.table.longest,
        )

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer, once started."""
        return self._ready().client.get_tokenizer()

    @property
    def active(self) -> int:
        """Sequences that run or wait."""
        return self._session.client.get_num_unfinished_requests() if self._session else 0

    async def start(self) -> None:
        """Load the model and let it say a few words, so that nothing is compiled later.

        Raises:
            EngineNotInstalledError: vLLM cannot be imported.
            ConfigurationError: An option or engine argument is wrong.
            EngineStartError: The model cannot be loaded; the message says why.
        """
        from openllm.engines.vllm_load import import_vllm

        begun = time.monotonic()
        logs = self._logs = LogPipe()
        try:
            logger.info("importing vLLM")
            await _to_its_end(partial(import_vllm, logs))
            logger.info("starting vLLM's own process")
            await _to_its_end(partial(self._load, logs))
            session = self._ready()
            logger.info("saying the first words")
            await session.load_adapters()
            await self._warm_up(session, logs)
        except BaseException:
            await self.close()
            raise
        gc.collect()
        gc.freeze()  # What vLLM's modules hold is large and stays: it need not be looked through.
        logger.info(
            "model %s is ready in %.1f s; context %d, KV cache of %d tokens",
            self._model.name, time.monotonic() - begun,
            session.model.context, session.kv_cache_tokens,
        )  # fmt: skip

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        """Yield the chunks of a prompt's answer; see `openllm.engines.base.Engine`."""
        session = self._ready()
        params = request.params
        ids = await self._prompt_ids(session, request.prompt)
        limit = token_limit(params, ids, session.model)
        structure = None
        if params.json_schema is not None or params.grammar is not None:
            structure = await asyncio.to_thread(session.structures.arguments, params)
        async with aclosing(session.generate(request, ids, limit, structure)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def embed(self, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        """Embed each input as the model's pooling does, to unit length.

        Raises:
            UnsupportedError: The model was loaded to generate.
            ContextLengthError: An input is longer than `capabilities.max_embedding_tokens`.
        """
        session = self._ready()
        if not session.pools:
            raise UnsupportedError(
                f"model {self._model.name!r} was loaded by vLLM to generate text, so it cannot "
                "embed; load it once more with engine_arg runner=pooling, or on the torch engine",
                param="model",
            )
        prompts = await aside(
            is_long(*inputs),
            lambda: [prompt_ids(each, session.model, "input", closed=True) for each in inputs],
        )
        for ids in prompts:
            if len(ids) > session.model.context:
                raise input_too_long(len(ids), self._model.name, session.model.context)
        vectors = await asyncio.gather(*(session.embed(ids) for ids in prompts))
        return EmbeddingOutput(tuple(vectors), sum(map(len, prompts)))

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Encode text; see `openllm.engines.base.Engine`."""
        table = self._ready().model.table
        return await aside(is_long(text), partial(table.encode, text, special=special))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Decode ids; raises `InvalidRequestError` for one that is none."""
        model = self._ready().model
        return model.table.detokenize(
            check_token(each, model.vocabulary, "token_ids") for each in token_ids
        )

    async def health(self) -> bool:
        """Whether vLLM's process lives and its loop still turns."""
        session = self._session
        if session is None or session.client.errored:
            return False
        try:
            await asyncio.wait_for(session.client.is_sleeping(), HEALTH_SECONDS)
        except Exception:  # Whatever it is, there was no answer.
            return False
        return not session.client.errored

    async def close(self) -> None:
        """Stop all work and end vLLM's processes; safe to call twice."""
        from openllm.engines.vllm_load import releasing

        session, self._session = self._session, None
        if session is not None:
            await session.close()
            gc.unfreeze()
            with releasing():
                del session
        if self._logs is not None:
            self._logs.close()

    def _load(self, logs: LogPipe) -> None:
        from openllm.engines.vllm_load import load

        self._session = load(self._model, self._options, logs)

    async def _warm_up(self, session: Session, logs: LogPipe) -> None:
        try:
            await session.warm_up()
        except EngineError as error:
            await asyncio.to_thread(logs.close)  # All that was logged is read then.
            raise EngineStartError(
                f"vLLM has loaded {self._model.path!r}, but cannot run it: "
                f"{logs.first_error or error.message}"
            ) from error

    def _ready(self) -> Session:
        if self._session is None:
            raise EngineUnavailableError(f"model {self._model.name!r} is not loaded")
        return self._session

    async def _prompt_ids(self, session: Session, prompt: Prompt) -> list[int]:
        if session.pools:
            raise UnsupportedError(
                f"model {self._model.name!r} was loaded to embed, so it generates no text; leave "
                "out the engine argument runner",
                param="model",
            )
        return await aside(is_long(prompt), partial(prompt_ids, prompt, session.model, "prompt"))


async def _to_its_end(work: Callable[[], None]) -> None:
    """Run work in a thread; who is cancelled waits for its end, to close what it has started."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.gather(running, return_exceptions=True)
        raise
