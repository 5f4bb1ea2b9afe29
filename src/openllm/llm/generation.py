"""One request from its arguments to its outputs, on the engine's own event loop.

A prompt reaches the model as it is written, messages through the model's chat template. Of a prompt
that leaves too little room the last (context - max_new_tokens - 1) tokens are kept, with a warning
in the log; the served API refuses such a prompt instead.
"""

from __future__ import annotations

import logging
import sys
from array import array
from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec.structs import replace

from openllm.errors import ContextLengthError, InvalidRequestError
from openllm.llm.arguments import Call
from openllm.llm.chat_engine import ChatEngine
from openllm.llm.loading import LazyEngine
from openllm.llm.output import Collector, GenerationOutput
from openllm.types import GenerateRequest, SamplingParams

logger = logging.getLogger("openllm.llm")


async def outputs(engine: LazyEngine, call: Call) -> AsyncGenerator[GenerationOutput, None]:
    """Yield what a call gets, loading the model first if need be; only the last is finished.

    Raises:
        RuntimeError: The engine produced nothing.
        EngineError: The engine failed, or ended early.
    """
    chat = await engine.get()
    request, collector = await _prepare(chat, call)
    async with aclosing(chat.engine.generate(request)) as deltas:
        async for delta in deltas:
            if collector.add(delta):
                yield collector.output()
    collector.check_finished()


async def answer(engine: LazyEngine, call: Call) -> GenerationOutput:
    """Return the last of `outputs`."""
    last: GenerationOutput | None = None
    seldom = replace(call, stream_interval=sys.maxsize)
    async with aclosing(outputs(engine, seldom)) as stream:
        async for output in stream:
            last = output
    if last is None:
        raise RuntimeError(f"nothing was produced for request {call.request.request_id}")
    return last


async def vectors(engine: LazyEngine, texts: list[str]) -> list[list[float]]:
    """Return the vector of each text, loading the model first if need be."""
    output = await (await engine.get()).embed(texts)
    return [array("f", vector).tolist() for vector in output.vectors]


async def _prepare(chat: ChatEngine, call: Call) -> tuple[GenerateRequest, Collector]:
    """Return the request for the bare engine, and what will collect its deltas."""
    rendered = await chat.render(call.request, must_fit=call.request.params.max_tokens is None)
    ids = await chat.prompt_ids(rendered.prompt)
    params = await _with_stop_texts(chat, call.request.params)
    context = _context_length(chat, call)
    prompt = rendered.prompt
    kept = _kept(chat, ids, context, params.max_tokens)
    if len(kept) < len(ids):
        logger.warning(
            "request %s: of %d prompt tokens the last %d are kept; the context is %d",
            call.request.request_id, len(ids), len(kept), context,
        )  # fmt: skip
        prompt = tuple(kept)
    if params.max_tokens is None and call.context_length is not None:
        params = replace(params, max_tokens=context - len(kept))
    request = replace(call.request, messages=(), prompt=prompt, params=params)
    return request, Collector(rendered.text, kept, request, call.stream_interval)


async def _with_stop_texts(chat: ChatEngine, params: SamplingParams) -> SamplingParams:
    """Let the text of each stop token, the end-of-text token's too, be a stop string."""
    texts = [await chat.token_text(token_id) for token_id in params.stop_token_ids]
    if not params.ignore_eos:
        texts.append(chat.eos)
    whole = (text for text in texts if text and "\N{REPLACEMENT CHARACTER}" not in text)
    return replace(params, stop=tuple(dict.fromkeys((*params.stop, *whole))))


def _context_length(chat: ChatEngine, call: Call) -> int:
    loaded = chat.capabilities.context_length
    if call.context_length is None:
        return loaded
    if call.context_length > loaded:
        raise InvalidRequestError(
            f"context_length={call.context_length} is more than the {loaded} tokens that model"
            f" {chat.model.name!r} was loaded with; load it with LLM(..., context_length=...)",
            param="context_length",
        )
    return call.context_length


def _kept(chat: ChatEngine, ids: list[int], context: int, max_tokens: int | None) -> list[int]:
    """Return the prompt's tokens that there is room for."""
    holds = f"the context of model {chat.model.name!r} holds {context}"
    if max_tokens is None:
        if len(ids) >= context:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens and {holds}; shorten it, or give max_new_tokens"
                " to keep its last (context - max_new_tokens - 1) tokens",
                param="prompt",
            )
        return ids
    room = context - max_tokens - 1
    if room < 1:
        raise ContextLengthError(
            f"max_new_tokens={max_tokens} leaves no room for a prompt, as {holds} tokens;"
            f" give at most {context - 2}",
            param="max_tokens",
        )
    return ids[-room:]
