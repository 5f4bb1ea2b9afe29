"""The methods of the gRPC API, all on one screen below, and their handlers.

The same stairs as the OpenAI-compatible routes: what is asked is checked by their schemas and made
a job by `openai_jobs`; only messages and codes differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from functools import partial

from openllm.fleet import Fleet
from openllm.server.generation import answer_size, collect
from openllm.server.grpc_answers import (
    CHAT,
    COMPLETION,
    ChunkEncoder,
    Dialect,
    embeddings_answer,
    model_message,
    whole_answer,
)
from openllm.server.grpc_call import Call, Handler
from openllm.server.grpc_messages import (
    chat_request,
    completion_request,
    detokenize_request,
    embedding_request,
    model_request,
    tokenize_request,
)
from openllm.server.offload import offload
from openllm.server.openai_embeddings import check_model, shortened, size_of
from openllm.server.openai_jobs import (
    CHAT_NAMES,
    COMPLETION_NAMES,
    Job,
    chat_job,
    completion_job,
    prompts_of,
    wire_names,
)
from openllm.server.proto import openllm_pb2 as pb

SERVICE: str = pb.DESCRIPTOR.services_by_name["OpenLLM"].full_name


async def _list_models(call: Call, fleet: Fleet) -> None:
    await call.read(pb.ListModelsRequest, lambda message: message)
    models = map(model_message, fleet.statuses())
    await call.send(pb.ListModelsResponse(models=models).SerializeToString())


async def _get_model(call: Call, fleet: Fleet) -> None:
    wire = await call.read(pb.GetModelRequest, model_request)
    status = fleet.status(fleet.resolve(wire.model))
    await call.send(model_message(status).SerializeToString())


async def _chat_completion(call: Call, fleet: Fleet) -> None:
    job = await _chat_job(call, fleet)
    with wire_names(**CHAT_NAMES), job.served.hold():
        await _answer(call, CHAT, job)


async def _chat_completion_stream(call: Call, fleet: Fleet) -> None:
    job = await _chat_job(call, fleet)
    with wire_names(**CHAT_NAMES), job.served.hold():
        await _stream(call, job, ChunkEncoder(CHAT, job.answer, job.tally()))


async def _completion(call: Call, fleet: Fleet) -> None:
    job, echo = await _completion_job(call, fleet)
    with wire_names(**COMPLETION_NAMES), job.served.hold():
        await _answer(call, COMPLETION, job, await job.echo() if echo else ())


async def _completion_stream(call: Call, fleet: Fleet) -> None:
    job, echo = await _completion_job(call, fleet)
    with wire_names(**COMPLETION_NAMES), job.served.hold():
        texts = await job.echo() if echo else ()
        await _stream(call, job, ChunkEncoder(COMPLETION, job.answer, job.tally(), texts))


async def _embeddings(call: Call, fleet: Fleet) -> None:
    wire = await call.read(pb.EmbeddingsRequest, embedding_request)
    model = fleet.resolve(wire.model)
    check_model(fleet.status(model))
    with wire_names(prompt="input"):
        output = await fleet.embed(model, prompts_of(wire.input))

    def body() -> bytes:
        vectors = shortened(output.vectors, wire.dimensions)
        return embeddings_answer(model, vectors, output.prompt_tokens)

    await call.send(await offload(size_of(output.vectors), body))


async def _tokenize(call: Call, fleet: Fleet) -> None:
    wire = await call.read(pb.TokenizeRequest, tokenize_request)
    model = fleet.resolve(wire.model)
    ids = await fleet.tokenize(model, wire.text, special=bool(wire.special))
    await call.send(pb.TokenizeResponse(model=model, token_ids=ids).SerializeToString())


async def _detokenize(call: Call, fleet: Fleet) -> None:
    wire = await call.read(pb.DetokenizeRequest, detokenize_request)
    model = fleet.resolve(wire.model)
    text = await fleet.detokenize(model, wire.token_ids)
    await call.send(pb.DetokenizeResponse(model=model, text=text).SerializeToString())


METHODS: Mapping[str, Handler] = {
    f"/{SERVICE}/ListModels": _list_models,
    f"/{SERVICE}/GetModel": _get_model,
    f"/{SERVICE}/ChatCompletion": _chat_completion,
    f"/{SERVICE}/ChatCompletionStream": _chat_completion_stream,
    f"/{SERVICE}/Completion": _completion,
    f"/{SERVICE}/CompletionStream": _completion_stream,
    f"/{SERVICE}/Embeddings": _embeddings,
    f"/{SERVICE}/Tokenize": _tokenize,
    f"/{SERVICE}/Detokenize": _detokenize,
}


async def _chat_job(call: Call, fleet: Fleet) -> Job:
    wire = await call.read(pb.ChatCompletionRequest, chat_request)
    return chat_job(fleet, fleet.resolve(wire.model), wire)


async def _completion_job(call: Call, fleet: Fleet) -> tuple[Job, bool]:
    wire = await call.read(pb.CompletionRequest, completion_request)
    return completion_job(fleet, fleet.resolve(wire.model), wire), bool(wire.echo)


async def _answer(call: Call, dialect: Dialect, job: Job, echo: Sequence[str] = ()) -> None:
    tally = job.tally()
    choices = await collect(job.chunks(), tally)
    body = partial(whole_answer, dialect, job.answer, choices, tally.usage(), echo)
    await call.send(await offload(answer_size(choices, job.params), body))


async def _stream(call: Call, job: Job, encoder: ChunkEncoder) -> None:
    async with aclosing(job.chunks()) as chunks:
        async for chunk in chunks:
            if message := encoder.encode(chunk):
                await call.send(message)
    await call.send(encoder.closing())
