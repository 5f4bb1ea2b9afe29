"""llama.cpp behind the engine door: GGUF models on CPU and GPU, by the `xllamacpp` package.

    llamacpp_load     file and options -> a running llama.cpp with its slots
    llamacpp_vocabulary  what its tokenizer is like
    llamacpp_request  our request -> its JSON, every value in range
    llamacpp_runs     a thread for each call into it, a queue before them
    llamacpp_stream   its events -> our chunks
    llamacpp_socket   its own listener, for what the binding lacks
    llamacpp_schemas  which JSON schemas it can follow, found by trying
    llamacpp_errors   its errors -> ours

One llama.cpp serves generation and embeddings. Each of its slots holds `context_length` tokens of
one sequence and keeps them until it is needed, so that a conversation's next turn reads only what
is new. Embeddings are the model's own pooling, else the mean over tokens.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from openllm.config.model import LoadOptions
from openllm.engines.llamacpp_errors import embedding_error, generation_error
from openllm.engines.llamacpp_load import BATCH, SLOTS, load
from openllm.engines.llamacpp_request import (
    LoadedModel,
    encode,
    generation_body,
    native_prompt,
)
from openllm.engines.llamacpp_runs import Runs
from openllm.engines.llamacpp_schemas import SchemaChecks
from openllm.engines.llamacpp_socket import NativeSocket
from openllm.engines.llamacpp_stream import NativeError
from openllm.engines.llamacpp_vocabulary import adds_bos, line_break, longest_token
from openllm.engines.request_checks import check_token
from openllm.errors import (
    EngineError,
    EngineNotInstalledError,
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

logger = logging.getLogger("openllm.engines.llamacpp")

HEALTH_SECONDS = 30.0  # llama.cpp answers between two steps, and a step may read a whole batch.
CLOSE_SECONDS = 2.0

# When llama.cpp aborts it calls gdb, if that is installed, for a backtrace: half a minute in which
# nobody learns that the process is dead, and the arguments of all calls in the log.
NO_DEBUGGER = "GGML_NO_BACKTRACE", "1"


class _Vector(Struct, frozen=True):
    embedding: str  # base64 of float32


class _EmbeddingUsage(Struct, frozen=True):
    prompt_tokens: int = 0


class _Embeddings(Struct, frozen=True):
    data: tuple[_Vector, ...] = ()
    usage: _EmbeddingUsage = _EmbeddingUsage()
    error: NativeError | None = None


class _Started(Struct, frozen=True, kw_only=True):
    """All there is while the model is loaded."""

    server: Any
    socket: NativeSocket
    runs: Runs
    model: LoadedModel
    schemas: SchemaChecks
    version: str


class LlamaCppEngine:
    """The engine door over llama.cpp; see the module."""

    def __init__(self, model: LocalModel, options: LoadOptions) -> None:
        self._model = model
        self._options = options
        self._started: _Started | None = None

    @property
    def capabilities(self) -> Capabilities:
        started = self._ready()
        return Capabilities(
            engine="llama.cpp",
            engine_version=started.version,
            context_length=started.model.context,
            max_concurrency=started.model.slots,
            max_embedding_tokens=self._longest_embedding(started.model),
            structured_output=started.model.never_in_json is not None,
            longest_token=started.model.longest_token,
        )

    @property
    def active(self) -> int:
        """Sequences that run or wait for a slot."""
        return self._started.runs.active if self._started else 0

    async def start(self) -> None:
        """Load the model; the interpreter stands still meanwhile.

        Raises:
            EngineNotInstalledError: The package `xllamacpp` is missing.
            EngineStartError: The file cannot be loaded; the message says why.
        """
        os.environ.setdefault(*NO_DEBUGGER)
        try:
            import xllamacpp
        except ImportError as error:
            raise EngineNotInstalledError(
                f"the llama.cpp engine cannot be imported ({error}); run: pip install xllamacpp"
            ) from error
        socket = NativeSocket()
        try:
            server = await asyncio.to_thread(
                load, self._model, self._options, socket.path, socket.secret
            )
            socket.seal()
            model = await self._read_facts(socket)
            runs = Runs(server, model.slots)
            schemas = SchemaChecks(runs, model)
        except BaseException:
            socket.remove()
            raise
        self._started = _Started(
            server=server,
            socket=socket,
            runs=runs,
            model=model,
            schemas=schemas,
            version=str(xllamacpp.__version__),
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        """Yield the chunks of all sequences; see `openllm.engines.base.Engine`."""
        started = self._ready()
        params = request.params
        body = encode(generation_body(request.prompt, params, started.model, request.adapter))
        if params.json_schema:
            await started.schemas.check(params.json_schema)
        generation = await started.runs.start(
            body,
            params,
            lambda answer: generation_error(answer.error, started.model),
            never=None if params.json_schema is None else started.model.never_in_json,
        )
        try:
            while (chunk := await generation.next()) is not None:
                yield chunk
        finally:
            generation.cancelled = True

    async def embed(self, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        """Embed inputs, one after the other.

        llama.cpp would embed several at once, but wrongly: it may cut inputs of different lengths
        into pieces and then returns the mean over the last piece.

        Raises:
            ContextLengthError: An input is longer than `capabilities.max_embedding_tokens`.
        """
        started = self._ready()
        if not self._options.embeddings:
            raise UnsupportedError(
                f"model {self._model.name!r} was started without embeddings", param="model"
            )
        prompts = [native_prompt(prompt, started.model, "input") for prompt in inputs]
        vectors: list[bytes] = []
        tokens = 0
        for prompt in prompts:
            reply = await self._embed(started, prompt)
            vectors.append(base64.b64decode(reply.data[0].embedding))
            tokens += reply.usage.prompt_tokens
        return EmbeddingOutput(tuple(vectors), tokens)

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Encode text; see `openllm.engines.base.Engine`."""
        body = encode({"content": text, "add_special": False, "parse_special": special})
        reply = await self._ready().socket.post("/tokenize", body)
        return list(reply["tokens"])

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Decode ids; raises `InvalidRequestError` for one that is none."""
        started = self._ready()
        ids = [check_token(each, started.model.vocabulary, "token_ids") for each in token_ids]
        return str((await started.socket.post("/detokenize", encode({"tokens": ids})))["content"])

    async def health(self) -> bool:
        """Whether llama.cpp's loop still turns."""
        if self._started is None:
            return False
        try:
            await asyncio.wait_for(self._started.socket.get("/slots"), HEALTH_SECONDS)
        except (EngineError, asyncio.TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Stop all work and free the model; safe to call twice."""
        started, self._started = self._started, None
        if started is not None:
            await started.runs.close(CLOSE_SECONDS)
            started.socket.remove()

    def _ready(self) -> _Started:
        if self._started is None:
            raise EngineUnavailableError(f"model {self._model.name!r} is not loaded")
        return self._started

    def _longest_embedding(self, model: LoadedModel) -> int:
        return min(BATCH, model.context) if self._options.embeddings else 0

    async def _embed(self, started: _Started, prompt: str | list[str | int]) -> _Embeddings:
        body = encode({"input": [prompt], "encoding_format": "base64"})
        data = await started.runs.call_alone(started.server.handle_embeddings, body)
        reply = msgspec.json.decode(data, type=_Embeddings)
        if reply.error is not None:
            longest = self._longest_embedding(started.model)
            raise embedding_error(reply.error, started.model, longest)
        return reply

    async def _read_facts(self, socket: NativeSocket) -> LoadedModel:
        """Ask llama.cpp what it has loaded."""
        properties = await socket.get("/props")
        meta = (await socket.get("/v1/models"))["data"][0]["meta"]
        context = properties["default_generation_settings"]["n_ctx"]
        slots = self._options.max_concurrency or SLOTS
        if self._options.context_length is None and context < meta["n_ctx_train"]:
            logger.warning(
                "model %s: %d of its %d tokens of context fit the memory, for %d sequences at once",
                self._model.name, context, meta["n_ctx_train"], slots,
            )  # fmt: skip
        return LoadedModel(
            name=self._model.name,
            vocabulary=meta["n_vocab"],
            context=context,
            slots=slots,
            bos=properties["bos_token"] if await adds_bos(socket) else "",
            never_in_json=await line_break(socket),
            longest_token=await longest_token(socket, meta["vocab_type"], meta["n_vocab"]),
            adapters=tuple(adapter.name for adapter in self._model.adapters),
        )
