"""Handlers of the OpenAI-compatible routes that generate text or name models.

A body becomes a `GenerateRequest` here, and chunks become an answer; what lies between is the
fleet's. The plain answer is the stream, collected.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import NamedTuple

import orjson

from openllm.errors import InvalidRequestError, ModelNotFoundError, UnsupportedError
from openllm.fleet import Fleet, ModelStatus
from openllm.server.exchange import Exchange
from openllm.server.generation import Tally, collect, generate_all
from openllm.server.openai_answers import (
    CHAT,
    COMPLETION,
    Answer,
    Dialect,
    EventEncoder,
    whole_answer,
)
from openllm.server.openai_schema import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    GenerationRequest,
)
from openllm.server.sampling import sampling_params
from openllm.server.sse import EventStream
from openllm.types import CompletionChunk, GenerateRequest, Message, Prompt, SamplingParams

# Prompts of one request that run at once on a model whose own width is not known.
_WIDTH = 8


async def chat_completions(exchange: Exchange, fleet: Fleet) -> None:
    """POST /v1/chat/completions"""
    wire = await exchange.read(ChatCompletionRequest)
    model = fleet.resolve(wire.model)
    status = fleet.status(model)
    logprobs = (wire.top_logprobs or 0) if wire.logprobs else None
    params = sampling_params(wire, fleet.defaults(model), logprobs=logprobs)
    _check_constraint(wire, status)
    answer = Answer.begin(status)
    messages = tuple(map(to_message, wire.messages))
    request = GenerateRequest(request_id=answer.id, params=params, messages=messages)
    with wire_names(prompt="messages", json_schema="response_format"):
        await _respond(exchange, fleet, wire, _Job(CHAT, answer, (request,), params))


async def completions(exchange: Exchange, fleet: Fleet) -> None:
    """POST /v1/completions"""
    wire = await exchange.read(CompletionRequest)
    model = fleet.resolve(wire.model)
    status = fleet.status(model)
    params = sampling_params(wire, fleet.defaults(model), logprobs=wire.logprobs)
    _check_constraint(wire, status)
    answer = Answer.begin(status)
    prompts = prompts_of(wire.prompt)
    requests = tuple(
        GenerateRequest(request_id=f"{answer.id}-{number}", params=params, prompt=prompt)
        for number, prompt in enumerate(prompts)
    )
    with wire_names(json_schema="response_format"):
        echo = await exchange.run(_echo(fleet, model, prompts, params.n)) if wire.echo else ()
        await _respond(exchange, fleet, wire, _Job(COMPLETION, answer, requests, params, echo))


async def list_models(exchange: Exchange, fleet: Fleet) -> None:
    """GET /v1/models"""
    models = [_model_fields(status) for status in fleet.statuses()]
    await exchange.answer(orjson.dumps({"object": "list", "data": models}))


async def retrieve_model(exchange: Exchange, fleet: Fleet) -> None:
    """GET /v1/models/{model}"""
    name = exchange.scope["path_params"]["model"]
    if not name:
        raise ModelNotFoundError("the path names no model; GET /v1/models lists them")
    await exchange.answer(orjson.dumps(_model_fields(fleet.status(fleet.resolve(name)))))


class _Job(NamedTuple):
    """What is to be generated, and how the answer is written."""

    dialect: Dialect
    answer: Answer
    requests: Sequence[GenerateRequest]
    params: SamplingParams
    echo: Sequence[str] = ()

    def chunks(self, fleet: Fleet) -> AsyncGenerator[CompletionChunk, None]:
        model = self.answer.model
        if len(self.requests) == 1:
            return fleet.generate(model, self.requests[0])
        capabilities = fleet.status(model).capabilities
        width = capabilities.max_concurrency if capabilities else _WIDTH
        return generate_all(fleet, model, self.requests, width)


async def _respond(exchange: Exchange, fleet: Fleet, wire: GenerationRequest, job: _Job) -> None:
    tally = Tally(len(job.requests), job.params.n)
    logprobs = job.params.logprobs is not None
    if wire.stream:
        usage = bool(wire.stream_options and wire.stream_options.include_usage)
        encoder = EventEncoder(
            job.dialect, job.answer, tally, usage=usage, logprobs=logprobs, echo=job.echo
        )
        await exchange.stream(lambda events: _pump(job.chunks(fleet), encoder, events))
        return
    choices = await exchange.run(collect(job.chunks(fleet), tally))
    await exchange.answer(
        whole_answer(
            job.dialect, job.answer, choices, tally.usage(), logprobs=logprobs, echo=job.echo
        )
    )


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


async def _echo(fleet: Fleet, model: str, prompts: Sequence[Prompt], n: int) -> list[str]:
    """Return the text of the prompt of each choice."""
    texts: list[str] = []
    for prompt in prompts:
        if isinstance(prompt, str):
            text = prompt
        else:
            ids = [token_id for token_id in prompt if isinstance(token_id, int)]
            text = await fleet.detokenize(model, ids)
        texts += [text] * n
    return texts


@contextmanager
def wire_names(**names: str) -> Iterator[None]:
    """Make an error that blames one of our fields blame the one the client sent."""
    try:
        yield
    except InvalidRequestError as error:
        error.param = names.get(error.param or "", error.param)
        raise


def prompts_of(value: str | list[str] | list[int] | list[list[int]]) -> list[Prompt]:
    """Return the prompts of a field that may hold one or several, as text or as token ids."""
    if isinstance(value, str):
        return [value]
    if isinstance(value[0], int):
        return [tuple(value)]
    return [each if isinstance(each, str) else tuple(each) for each in value]


def to_message(message: ChatMessage) -> Message:
    """Return a turn as the model's chat template takes it."""
    # "developer" is OpenAI's newer name for the role that chat templates call "system".
    role = "system" if message.role == "developer" else message.role
    return Message(role=role, content=message.text, name=message.name)


def _check_constraint(wire: GenerationRequest, status: ModelStatus) -> None:
    """Raise `UnsupportedError` if the text is to be constrained and the engine cannot."""
    capabilities = status.capabilities
    if capabilities is None or capabilities.structured_output:
        return
    constrained = wire.response_format is not None and wire.response_format.type != "text"
    if wire.grammar is not None or constrained:
        param = "grammar" if wire.grammar is not None else "response_format"
        raise UnsupportedError(
            f"{param} is not supported by the engine of model {status.name!r}", param=param
        )


def _model_fields(status: ModelStatus) -> dict[str, object]:
    return {
        "id": status.name,
        "object": "model",
        "created": status.created,
        "owned_by": "openllm",
    }
