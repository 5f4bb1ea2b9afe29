"""Handlers of the native API: /chat, /chat-sse, /complete and /embed.

The same stairs as the OpenAI-compatible routes, with another dialect on the wire.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, aclosing

import orjson
from starlette.routing import Route
from starlette.types import ASGIApp

from openllm.fleet import Fleet
from openllm.server.exchange import Exchange, Handler
from openllm.server.generation import Choice, Tally, collect
from openllm.server.native_schema import (
    ChatRequest,
    CompleteRequest,
    Configuration,
    EmbedRequest,
)
from openllm.server.offload import offload
from openllm.server.openai_answers import to_json
from openllm.server.openai_embeddings import check_model, encode_vector, size_of
from openllm.server.openai_jobs import to_message, wire_names
from openllm.server.request_id import new_request_id
from openllm.server.sse import EventStream
from openllm.types import CompletionChunk, FinishReason, GenerateRequest, Message


def native_routes(endpoint: Callable[[Handler], ASGIApp]) -> list[Route]:
    """Return the routes; `endpoint` makes an ASGI app of a handler."""
    handlers = {"/chat": chat, "/chat-sse": chat_sse, "/complete": complete, "/embed": embed}
    return [Route(path, endpoint(each), methods=["POST"]) for path, each in handlers.items()]


async def chat(exchange: Exchange, fleet: Fleet) -> None:
    """POST /chat"""
    wire = await exchange.read(ChatRequest)
    configuration, request = _chat_request(exchange, fleet, wire)
    with _blaming(wire):
        [choice] = await _generate(exchange, fleet, configuration, request)
    await _answer(exchange, configuration, message=_echo(wire) + choice.text)


async def chat_sse(exchange: Exchange, fleet: Fleet) -> None:
    """POST /chat-sse"""
    wire = await exchange.read(ChatRequest)
    configuration, request = _chat_request(exchange, fleet, wire)
    chunks = fleet.generate(configuration.model, request)
    with _blaming(wire):
        await exchange.stream(lambda events: _pump(chunks, _echo(wire), configuration, events))


async def complete(exchange: Exchange, fleet: Fleet) -> None:
    """POST /complete"""
    wire = await exchange.read(CompleteRequest)
    model = exchange.resolve(fleet, wire.model)
    configuration = wire.effective(model, fleet.defaults(model))
    request = GenerateRequest(
        request_id=new_request_id(), params=configuration.params(), prompt=wire.prompt
    )
    choices = await _generate(exchange, fleet, configuration, request)
    before = wire.prompt if wire.echo else ""
    await _answer(exchange, configuration, choices=[before + each.text for each in choices])


async def embed(exchange: Exchange, fleet: Fleet) -> None:
    """POST /embed"""
    wire = await exchange.read(EmbedRequest, array_field="input")
    model = exchange.resolve(fleet, wire.model)
    check_model(fleet.status(model))
    with wire_names(prompt="input"):
        output = await exchange.run(fleet.embed(model, wire.input))
    vectors = output.vectors
    await exchange.answer(await offload(size_of(vectors), lambda: _vectors(vectors)))


def _chat_request(
    exchange: Exchange, fleet: Fleet, wire: ChatRequest
) -> tuple[Configuration, GenerateRequest]:
    wire.check()
    model = exchange.resolve(fleet, wire.model)
    configuration = wire.effective(model, fleet.defaults(model))
    if wire.prompt is not None:
        messages: tuple[Message, ...] = (Message(role="user", content=wire.prompt),)
    else:
        messages = tuple(map(to_message, wire.messages or ()))
    request = GenerateRequest(
        request_id=new_request_id(), params=configuration.params(), messages=messages
    )
    return configuration, request


def _blaming(wire: ChatRequest) -> AbstractContextManager[None]:
    """Make errors about the conversation name the field it came in."""
    if wire.prompt is None:
        return wire_names(prompt="messages")
    return wire_names(messages="prompt")


def _echo(wire: ChatRequest) -> str:
    """Return what precedes the reply: nothing, or the prompt, set apart from it."""
    if not wire.echo or wire.prompt is None:
        return ""
    return wire.prompt if wire.prompt[-1].isspace() else wire.prompt + " "


async def _generate(
    exchange: Exchange, fleet: Fleet, configuration: Configuration, request: GenerateRequest
) -> list[Choice]:
    tally = Tally(1, configuration.n)
    return await exchange.run(collect(fleet.generate(configuration.model, request), tally))


async def _answer(exchange: Exchange, configuration: Configuration, **fields: object) -> None:
    body = {**fields, "configuration": configuration.model_dump()}
    await exchange.answer(orjson.dumps(body))


async def _pump(
    chunks: AsyncGenerator[CompletionChunk, None],
    before: str,
    configuration: Configuration,
    events: EventStream,
) -> None:
    tally = Tally(1, 1)
    reason: FinishReason | None = None
    async with aclosing(chunks):
        async for chunk in chunks:
            if text := before + chunk.text:
                await events.write(b'data: {"text":%b}\n\n' % to_json(text))
                before = ""
            if chunk.finish_reason is not None:
                tally.finish(chunk)
                reason = chunk.finish_reason
    tally.check()
    last = {"configuration": configuration.model_dump(), "finish_reason": reason}
    await events.write(b"data: %b\n\n" % to_json(last))


def _vectors(vectors: Sequence[bytes]) -> bytes:
    return b"[%b]" % b",".join(encode_vector(vector, text=False) for vector in vectors)
