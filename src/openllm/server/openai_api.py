"""Handlers of the OpenAI-compatible routes that generate text or name models.

A body becomes a job here (`openai_jobs`), and chunks become an answer; what lies between is the
fleet's. The plain answer is the stream, collected.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial

import orjson

from openllm.errors import ModelNotFoundError
from openllm.fleet import Fleet, ModelStatus
from openllm.server.exchange import Exchange
from openllm.server.generation import answer_size, collect
from openllm.server.offload import offload
from openllm.server.openai_answers import CHAT, COMPLETION, Dialect, EventEncoder, whole_answer
from openllm.server.openai_jobs import (
    CHAT_NAMES,
    COMPLETION_NAMES,
    Job,
    chat_job,
    completion_job,
    wire_names,
)
from openllm.server.openai_schema import (
    ChatCompletionRequest,
    CompletionRequest,
    GenerationRequest,
)
from openllm.server.sse import EventStream
from openllm.types import CompletionChunk


async def chat_completions(exchange: Exchange, fleet: Fleet) -> None:
    """POST /v1/chat/completions"""
    wire = await exchange.read(ChatCompletionRequest)
    job = chat_job(fleet, exchange.resolve(fleet, wire.model), wire)
    with wire_names(**CHAT_NAMES), job.served.hold():
        await _respond(exchange, wire, CHAT, job)


async def completions(exchange: Exchange, fleet: Fleet) -> None:
    """POST /v1/completions"""
    wire = await exchange.read(CompletionRequest)
    job = completion_job(fleet, exchange.resolve(fleet, wire.model), wire)
    with wire_names(**COMPLETION_NAMES), job.served.hold():
        echo = await exchange.run(job.echo()) if wire.echo else ()
        await _respond(exchange, wire, COMPLETION, job, echo)


async def list_models(exchange: Exchange, fleet: Fleet) -> None:
    """GET /v1/models"""
    models = [_model_fields(status) for status in fleet.statuses()]
    await exchange.answer(orjson.dumps({"object": "list", "data": models}))


async def retrieve_model(exchange: Exchange, fleet: Fleet) -> None:
    """GET /v1/models/{model}"""
    name = exchange.scope["path_params"]["model"]
    if not name:
        raise ModelNotFoundError("the path names no model; GET /v1/models lists them")
    await exchange.answer(orjson.dumps(_model_fields(fleet.status(exchange.resolve(fleet, name)))))


async def _respond(
    exchange: Exchange,
    wire: GenerationRequest,
    dialect: Dialect,
    job: Job,
    echo: Sequence[str] = (),
) -> None:
    tally = job.tally()
    logprobs = job.params.logprobs is not None
    if wire.stream:
        usage = bool(wire.stream_options and wire.stream_options.include_usage)
        encoder = EventEncoder(
            dialect, job.answer, tally, usage=usage, logprobs=logprobs, echo=echo
        )
        await exchange.stream(lambda events: _pump(job.chunks(), encoder, events))
        return
    choices = await exchange.run(collect(job.chunks(), tally))
    body = partial(
        whole_answer, dialect, job.answer, choices, tally.usage(), logprobs=logprobs, echo=echo
    )
    await exchange.answer(await offload(answer_size(choices, job.params), body))


async def _pump(
    chunks: AsyncGenerator[CompletionChunk, None], encoder: EventEncoder, events: EventStream
) -> None:
    async with aclosing(chunks):
        pending = encoder.opening()
        async for chunk in chunks:
            data = encoder.encode(chunk)
            if pending:
                data, pending = pending + data, b""
            if data:
                await events.write(data)
    await events.write(pending + encoder.closing())


def _model_fields(status: ModelStatus) -> dict[str, object]:
    parent = {"parent": status.parent} if status.parent else {}
    return {
        "id": status.name,
        "object": "model",
        "created": status.created,
        "owned_by": "openllm",
        **parent,
    }
