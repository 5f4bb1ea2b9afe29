"""OpenAI's request bodies, as far as this server honours them; anything else is refused.

The ranges are OpenAI's unless the field is one of ours (`top_k`, `min_p`, `repetition_penalty`,
`stop_token_ids`, `ignore_eos`, `grammar`), which other open servers know by the same names.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    Discriminator,
    Field,
    Tag,
    field_validator,
)

from openllm.server import openai_fields
from openllm.server.response_format import MAX_SCHEMA_BYTES, ResponseFormat
from openllm.server.validation import WireModel, fault

MAX_N = 16
MAX_TOP_LOGPROBS = 20
MAX_MESSAGES = 4096
MAX_PROMPTS = 256
MAX_EMBEDDING_INPUTS = 2048
_MAX_TOKENS = 2**31 - 1


def _by_type(value: Any) -> str | None:
    """Tag a value that may be text, token ids or a list of either, so that a fault in it is
    reported once and not for every alternative."""
    if isinstance(value, str):
        return "<text>"
    if not isinstance(value, list):
        return None
    first = value[0] if value else None
    if isinstance(first, list):
        return "<token lists>"
    return "<texts>" if isinstance(first, str) or first is None else "<tokens>"


def _must_be(what: str) -> Discriminator:
    return Discriminator(
        _by_type, custom_error_type="wrong_type", custom_error_message=f"must be {what}"
    )


TokenId = Annotated[int, Field(ge=0, le=_MAX_TOKENS)]
Text = Annotated[str, Field(min_length=1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Label = Annotated[str, Field(max_length=512)]

Stop = Annotated[
    Annotated[StopText, Tag("<text>")]
    | Annotated[list[StopText], Field(max_length=16), Tag("<texts>")],
    _must_be("a string or an array of strings"),
]


class StreamOptions(WireModel):
    include_usage: bool | None = Field(
        None, description="End the stream with a chunk that holds the token counts."
    )
    include_obfuscation: Literal[False] | None = None
    continuous_usage_stats: Literal[False] | None = None


class GenerationRequest(WireModel):
    """What chat and plain completions have in common."""

    model: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="A served model; the first one if left out."
    )
    stream: bool | None = Field(
        None, description="Send the reply as server-sent events while it is made."
    )
    stream_options: StreamOptions | None = Field(
        None, description="What a stream holds beside the text."
    )
    max_tokens: Annotated[int, Field(ge=1, le=_MAX_TOKENS)] | None = Field(
        None, description="Most new tokens; without it up to the end of the context."
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="0 is deterministic; 1 the model's own distribution."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Sample from the likeliest tokens that reach this probability."
    )
    top_k: Annotated[int, Field(ge=-1, le=_MAX_TOKENS)] | None = Field(
        None, description="Sample from the k likeliest tokens; 0 or -1: all."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Drop tokens below this share of the likeliest one."
    )
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = Field(None, description="Replies to make.")
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = Field(
        None, description="Makes sampling repeatable."
    )
    stop: Stop | None = Field(
        None, description="Text, or up to 16 texts, that ends the reply; it is left out."
    )
    stop_token_ids: Annotated[list[TokenId], Field(max_length=256)] | None = Field(
        None, description="Tokens that end the reply, beside the model's own."
    )
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = Field(
        None, description="Lowers every token that has appeared."
    )
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = Field(
        None, description="Lowers a token by how often it has appeared."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = Field(
        None, description="Divides the logits of tokens that appeared; 1 is off."
    )
    logit_bias: Annotated[dict[str, Bias], Field(max_length=1024)] | None = Field(
        None, description="Added to the logits of these token ids."
    )
    ignore_eos: bool | None = Field(
        None, description="Go on after the end-of-text token, for load tests."
    )
    response_format: ResponseFormat | None = Field(
        None, description="Text, any JSON object, or JSON that matches a schema."
    )
    grammar: Annotated[str, Field(min_length=1, max_length=MAX_SCHEMA_BYTES)] | None = Field(
        None, description="Grammar in GBNF that the text must match."
    )
    user: Label | None = Field(None, description="Accepted for compatibility; has no effect.")
    metadata: Annotated[dict[str, Label], Field(max_length=16)] | None = Field(
        None, description="Accepted for compatibility; has no effect."
    )
    safety_identifier: Label | None = Field(
        None, description="Accepted for compatibility; has no effect."
    )
    prompt_cache_key: Label | None = Field(
        None, description="Accepted for compatibility; has no effect."
    )

    @field_validator("logit_bias")
    @classmethod
    def _token_ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for key in value or ():
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise fault(f"must have token ids as keys, got {orjson.dumps(key[:40]).decode()}")
        return value

    @field_validator("grammar")
    @classmethod
    def _one_constraint(cls, value: str | None, info: Any) -> str | None:
        form = info.data.get("response_format")
        if value is not None and form is not None and form.type != "text":
            raise fault("cannot be combined with response_format; send one of them")
        return value

    @field_validator("stream_options")
    @classmethod
    def _only_streamed(cls, value: StreamOptions | None, info: Any) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise fault("is only allowed when stream is true")
        return value


class TextPart(WireModel):
    type: Literal["text"]
    text: str


Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[TextPart], Field(min_length=1), Tag("<parts>")],
    Discriminator(
        lambda value: (
            "<text>" if isinstance(value, str) else "<parts>" if isinstance(value, list) else None
        ),
        custom_error_type="wrong_type",
        custom_error_message="must be a string or an array of text parts",
    ),
]


class ChatMessage(WireModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = Field(None, validate_default=True)
    name: Annotated[str, Field(max_length=64)] | None = None
    # What the SDK writes into a reply and sends back with it; none of it can hold anything here.
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    refusal: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    @field_validator("content")
    @classmethod
    def _needed(cls, value: Content | None, info: Any) -> Content | None:
        if value is None and info.data.get("role", "assistant") != "assistant":
            raise fault("must be a string or an array of text parts")
        return value

    @property
    def text(self) -> str:
        """The parts of the content joined by newlines, as other open servers join them."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


Messages = Annotated[
    list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
]


class ChatCompletionRequest(GenerationRequest):
    """Body of POST /v1/chat/completions."""

    unsupported = openai_fields.CHAT

    messages: Annotated[
        list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    ]
    max_completion_tokens: Annotated[int, Field(ge=1, le=_MAX_TOKENS)] | None = Field(
        None, description="Most new tokens of a reply; wins over max_tokens."
    )
    logprobs: bool | None = Field(None, description="Report the log probability of every token.")
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        None, description="Alternatives to report for each token."
    )

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, value: int | None, info: Any) -> int | None:
        if value is not None and not info.data.get("logprobs"):
            raise fault("is only allowed when logprobs is true")
        return value


class CompletionRequest(GenerationRequest):
    """Body of POST /v1/completions."""

    unsupported = openai_fields.COMPLETION

    prompt: Annotated[
        Annotated[Text, Tag("<text>")]
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS), Tag("<texts>")]
        | Annotated[TokenIds, Tag("<tokens>")]
        | Annotated[
            list[TokenIds], Field(max_length=MAX_PROMPTS, fail_fast=True), Tag("<token lists>")
        ],
        _must_be("a string, an array of strings, token ids or arrays of token ids"),
    ]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        None, description="Report log probabilities, with this many alternatives."
    )
    echo: bool | None = Field(None, description="Begin the text with the prompt.")

    @field_validator("echo")
    @classmethod
    def _without_logprobs(cls, value: bool | None, info: Any) -> bool | None:
        if value and info.data.get("logprobs") is not None:
            raise fault("cannot be combined with logprobs: those of a prompt are not computed")
        return value


class EmbeddingRequest(WireModel):
    """Body of POST /v1/embeddings."""

    unsupported = openai_fields.EMBEDDING

    input: Annotated[
        Annotated[Text, Tag("<text>")]
        | Annotated[
            list[Text], Field(min_length=1, max_length=MAX_EMBEDDING_INPUTS), Tag("<texts>")
        ]
        | Annotated[TokenIds, Tag("<tokens>")]
        | Annotated[
            list[TokenIds],
            Field(max_length=MAX_EMBEDDING_INPUTS, fail_fast=True),
            Tag("<token lists>"),
        ],
        _must_be("a string, an array of strings, token ids or arrays of token ids"),
    ]
    model: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="A served model; the first one if left out."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="Numbers, or float32 in base64."
    )
    dimensions: Annotated[int, Field(ge=1, le=_MAX_TOKENS)] | None = Field(
        None, description="Keep this many leading numbers of each vector, at unit length again."
    )
    user: Label | None = Field(None, description="Accepted for compatibility; has no effect.")
