"""Bodies of the native API: /chat, /chat-sse, /complete and /embed.

Temperature and penalties go from 0 to 1 here, where OpenAI's go further. `configuration` in an
answer holds the values in effect: the request's, else the model's defaults, else neutral ones.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from openllm.config.model import RequestDefaults
from openllm.errors import InvalidRequestError
from openllm.server.openai_schema import MAX_EMBEDDING_INPUTS, MAX_N, Messages, Stop, Text
from openllm.server.validation import WireModel
from openllm.types import SamplingParams

_MAX_INT32 = 2**31 - 1

Share = Annotated[float, Field(ge=0, le=1)]
ModelName = Annotated[str, Field(max_length=256)]


class Configuration(BaseModel):
    """What a reply was made with."""

    model: str
    prompt: str | None = Field(description="null for a request with messages.")
    temperature: float
    top_k: int
    top_p: float
    stop_sequence: str | list[str] | None = Field(description="A list if there are several.")
    frequency_penalty: float
    presence_penalty: float
    max_tokens: int | None = Field(description="null: to the end of the model's context.")
    seed: int | None
    n: int

    def params(self) -> SamplingParams:
        """Return the same for an engine."""
        # Of no probability at all the likeliest token is left.
        top_k, top_p = (1, 1.0) if self.top_p == 0 else (self.top_k, self.top_p)
        return SamplingParams(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=top_k,
            top_p=top_p,
            n=self.n,
            seed=self.seed,
            stop=tuple(_as_list(self.stop_sequence or [])),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
        )


class SamplingRequest(WireModel):
    """What /chat and /complete have in common."""

    model: ModelName | None = Field(None, description="A served model; the first one if left out.")
    temperature: Share | None = Field(None, description="0 is deterministic, 1 unscaled.")
    top_k: Annotated[int, Field(ge=0, le=_MAX_INT32)] | None = Field(
        None, description="Sample from the k likeliest tokens; 0: all."
    )
    top_p: Share | None = Field(None, description="Probability mass sampled from.")
    stop: Stop | None = Field(None, description="Text, or a list of texts, that ends generation.")
    stop_sequence: Stop | None = Field(None, description="Another name of stop.")
    frequency_penalty: Share | None = Field(
        None, description="Lowers a token by its count in prompt and output."
    )
    presence_penalty: Share | None = Field(
        None, description="Lowers every token that has appeared."
    )
    max_tokens: Annotated[int, Field(ge=1, le=_MAX_INT32)] | None = Field(
        None, description="Most new tokens of a reply."
    )
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = Field(
        None, description="Makes sampling repeatable."
    )
    echo: bool | None = Field(None, description="Begin the text with the prompt.")

    @field_validator("stop_sequence")
    @classmethod
    def _same_as_stop(cls, value: Any, info: Any) -> Any:
        stop = info.data.get("stop")
        if value is not None and stop is not None and _as_list(value) != _as_list(stop):
            raise PydanticCustomError("fault", "differs from stop; send one of the two")
        return value

    def effective(self, model: str, defaults: RequestDefaults) -> Configuration:
        """Return the values in effect for a request to `model`."""
        sent = self.stop_sequence if self.stop is None else self.stop
        stops = list(defaults.stop_sequence) if sent is None else _as_list(sent)
        return Configuration(
            model=model,
            prompt=getattr(self, "prompt", None),
            temperature=_first(self.temperature, defaults.temperature, 1.0),
            top_k=_first(self.top_k, defaults.top_k, 0),
            top_p=_first(self.top_p, defaults.top_p, 1.0),
            stop_sequence=stops[0] if len(stops) == 1 else stops or None,
            frequency_penalty=_first(self.frequency_penalty, defaults.frequency_penalty, 0.0),
            presence_penalty=_first(self.presence_penalty, defaults.presence_penalty, 0.0),
            max_tokens=_first(self.max_tokens, defaults.max_tokens, None),
            seed=_first(self.seed, defaults.seed, None),
            n=_first(getattr(self, "n", None), None, 1),
        )


class ChatRequest(SamplingRequest):
    """Body of POST /chat and POST /chat-sse: a prompt, or the messages of a conversation."""

    prompt: Text | None = Field(None, description="What the user says.")
    messages: Messages | None = Field(None, description="The conversation so far.")

    @field_validator("messages")
    @classmethod
    def _instead_of_prompt(cls, value: Messages | None, info: Any) -> Messages | None:
        if value is not None and info.data.get("prompt") is not None:
            raise PydanticCustomError("fault", "cannot be combined with prompt; send one of them")
        return value

    def check(self) -> None:
        """Raise `InvalidRequestError` if there is nothing to answer, or nothing to echo."""
        if self.prompt is None and self.messages is None:
            raise InvalidRequestError(
                "prompt is required, or messages in its place",
                param="prompt",
                code="missing_required_parameter",
            )
        if self.prompt is None and self.echo:
            raise InvalidRequestError(
                "echo repeats a prompt; leave it out with messages", param="echo"
            )


class CompleteRequest(SamplingRequest):
    """Body of POST /complete."""

    prompt: Text = Field(description="The text to continue.")
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = Field(
        None, description="Continuations to make; 1 if left out."
    )


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class EmbedRequest(WireModel):
    """Body of POST /embed; a bare list of texts is taken as `input`."""

    input: Annotated[
        list[Text],
        Field(min_length=1, max_length=MAX_EMBEDDING_INPUTS),
        BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
    ] = Field(description="A text, or a list of texts.")
    model: ModelName | None = Field(None, description="A served model; the first one if left out.")


class ChatReply(BaseModel):
    """Answer of POST /chat."""

    message: str
    configuration: Configuration


class CompleteReply(BaseModel):
    """Answer of POST /complete."""

    choices: list[str] = Field(description="One text for each of the n continuations.")
    configuration: Configuration


class ChatEvent(BaseModel):
    """One event of POST /chat-sse: a text, or the last one with all that ends a reply."""

    text: str | None = Field(None, description="What comes next; joined, the texts are /chat's.")
    configuration: Configuration | None = Field(None, description="In the last event only.")
    finish_reason: str | None = Field(None, description='"stop" or "length", in the last event.')


def _first(sent: Any, default: Any, neutral: Any) -> Any:
    return next((value for value in (sent, default) if value is not None), neutral)
