"""From a checked OpenAI request to what the fleet is asked, whatever protocol carried it.

Knows nothing of how answers are written.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from openllm.errors import InvalidRequestError, UnsupportedError
from openllm.fleet import Fleet, ModelStatus, ServedModel
from openllm.server.generation import Tally, generate_all
from openllm.server.openai_answers import Answer
from openllm.server.openai_schema import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    GenerationRequest,
)
from openllm.server.sampling import sampling_params
from openllm.types import CompletionChunk, GenerateRequest, Message, Prompt, SamplingParams

CHAT_NAMES: Mapping[str, str] = {"prompt": "messages", "json_schema": "response_format"}
COMPLETION_NAMES: Mapping[str, str] = {"json_schema": "response_format"}
"""Fields of ours that an error may blame, and the fields of the request that they came from."""

# Prompts of one request that run at once on a model whose own width is not known.
_WIDTH = 8


class Job(NamedTuple):
    """What is to be generated; to be worked on while its model is held."""

    served: ServedModel
    answer: Answer
    requests: Sequence[GenerateRequest]
    params: SamplingParams

    def chunks(self) -> AsyncGenerator[CompletionChunk, None]:
        if len(self.requests) == 1:
            return self.served.generate(self.requests[0])
        capabilities = self.served.status().capabilities
        width = capabilities.max_concurrency if capabilities else _WIDTH
        return generate_all(self.served, self.requests, width)

    def tally(self) -> Tally:
        return Tally(len(self.requests), self.params.n)

    async def echo(self) -> list[str]:
        """Return the text of the prompt of each choice."""
        texts: list[str] = []
        for request in self.requests:
            prompt = request.prompt
            if isinstance(prompt, str):
                text = prompt
            else:
                ids = [token_id for token_id in prompt if isinstance(token_id, int)]
                text = await self.served.detokenize(ids)
            texts += [text] * self.params.n
        return texts


def chat_job(fleet: Fleet, model: str, wire: ChatCompletionRequest) -> Job:
    """Return what `wire` asks of the served model; raises `UnsupportedError`."""
    served = fleet.find(model)
    status = served.status(model)
    logprobs = (wire.top_logprobs or 0) if wire.logprobs else None
    params = sampling_params(wire, served.config.defaults, logprobs=logprobs)
    _check_constraint(wire, status)
    answer = Answer.begin(status)
    messages = tuple(map(to_message, wire.messages))
    request = GenerateRequest(
        request_id=answer.id, params=params, messages=messages, adapter=served.adapter(model)
    )
    return Job(served, answer, (request,), params)


def completion_job(fleet: Fleet, model: str, wire: CompletionRequest) -> Job:
    """Return what `wire` asks of the served model; raises `UnsupportedError`."""
    served = fleet.find(model)
    status = served.status(model)
    params = sampling_params(wire, served.config.defaults, logprobs=wire.logprobs)
    _check_constraint(wire, status)
    answer = Answer.begin(status)
    requests = tuple(
        GenerateRequest(
            request_id=f"{answer.id}-{number}",
            params=params,
            prompt=prompt,
            adapter=served.adapter(model),
        )
        for number, prompt in enumerate(prompts_of(wire.prompt))
    )
    return Job(served, answer, requests, params)


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
