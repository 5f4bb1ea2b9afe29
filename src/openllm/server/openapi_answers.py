"""What the OpenAI-compatible routes and the probes answer, as models for the API's description.

The answers themselves are built as bytes (`openai_answers`); a test holds the two together.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]


class AnswerModel(BaseModel):
    """Base of the models here: an answer has these fields and no others."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class ErrorDetail(AnswerModel):
    message: str = Field(description="What is wrong, and how to put it right.")
    type: str = Field(description="The kind of error, such as invalid_request_error.")
    param: str | None = Field(description="The field to blame, if one is.")
    code: str | None = Field(description="Name of the error for programs, stable over releases.")


class ErrorAnswer(AnswerModel):
    error: ErrorDetail


class PromptTokensDetails(AnswerModel):
    cached_tokens: int = Field(description="Of the prompt, reused and not read again.")


class TokenUsage(AnswerModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(AnswerModel):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(AnswerModel):
    content: list[ChatLogprob]
    refusal: None


class AssistantMessage(AnswerModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(AnswerModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class Identity(AnswerModel):
    id: str
    created: int = Field(description="Seconds since 1970.")
    model: str
    system_fingerprint: str = Field(description="Changes with the engine and the model's file.")


class ChatCompletion(Identity):
    """One whole reply."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: TokenUsage


class Delta(AnswerModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(AnswerModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(Identity):
    """One event of a streamed reply."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: TokenUsage | None = Field(
        None, description="Null but in the last chunk; only with include_usage."
    )


class CompletionLogprobs(AnswerModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(AnswerModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None = Field(description="Null in a stream that goes on.")


class Completion(Identity):
    """One whole completion, or one event of a streamed one."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: TokenUsage | None = None


class Embedding(AnswerModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="Of unit length; in base64 if asked for.")


class EmbeddingUsage(AnswerModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(AnswerModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Model(AnswerModel):
    id: str
    object: Literal["model"]
    created: int = Field(description="Seconds since 1970.")
    owned_by: str


class ModelList(AnswerModel):
    object: Literal["list"]
    data: list[Model]


class Alive(AnswerModel):
    status: Literal["alive"]


class ModelState(AnswerModel):
    name: str
    state: str = Field(description="stopped, loading, ready, restarting or failed.")


class Ready(AnswerModel):
    status: Literal["ready"]
    models: list[ModelState]
