"""Answers of the gRPC API: chunks to messages, whole or as a stream.

All that stays the same through a stream is encoded once: protobuf joins messages by joining bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from openllm.fleet import ModelStatus
from openllm.server.generation import Choice, Tally
from openllm.server.openai_answers import Answer, finite
from openllm.server.proto import openllm_pb2 as pb
from openllm.types import CompletionChunk, TokenLogprob, Usage


class Dialect(NamedTuple):
    """What distinguishes the answers of chat from those of plain completions.

    Attributes:
        choice: From its index and text to a whole choice.
        delta: The same for a part of one; the last argument says whether it is the first part.
    """

    whole: Callable[..., Any]
    chunk: Callable[..., Any]
    choice: Callable[[int, str], Any]
    delta: Callable[[int, str, bool], Any]


def _chat_choice(index: int, text: str) -> pb.ChatChoice:
    return pb.ChatChoice(index=index, message=pb.ChatMessage(role="assistant", content=text))


def _chat_delta(index: int, text: str, first: bool) -> pb.ChatChunkChoice:
    delta = pb.ChatDelta(role="assistant" if first else None, content=text)
    return pb.ChatChunkChoice(index=index, delta=delta)


def _completion_choice(index: int, text: str, _: bool = False) -> pb.CompletionChoice:
    return pb.CompletionChoice(index=index, text=text)


CHAT = Dialect(pb.ChatCompletionResponse, pb.ChatCompletionChunk, _chat_choice, _chat_delta)
COMPLETION = Dialect(
    pb.CompletionResponse, pb.CompletionResponse, _completion_choice, _completion_choice
)


def whole_answer(
    dialect: Dialect,
    answer: Answer,
    choices: Sequence[Choice],
    usage: Usage,
    echo: Sequence[str] = (),
) -> bytes:
    """Return the answer that is not streamed; `echo` precedes the text of each choice."""
    parts = []
    for index, choice in enumerate(choices):
        part = dialect.choice(index, (echo[index] if echo else "") + choice.text)
        part.logprobs.extend(map(_logprob, choice.logprobs))
        part.finish_reason = choice.finish_reason
        parts.append(part)
    message = dialect.whole(**answer._asdict(), choices=parts, usage=usage_message(usage))
    return _encoded(message)


class ChunkEncoder:
    """Chunks to messages; `echo` precedes the text of each choice."""

    def __init__(
        self, dialect: Dialect, answer: Answer, tally: Tally, echo: Sequence[str] = ()
    ) -> None:
        self._dialect = dialect
        self._tally = tally
        self._head = _encoded(dialect.chunk(**answer._asdict()))
        self._before = dict(enumerate(echo or [""] * tally.choices))

    def encode(self, chunk: CompletionChunk) -> bytes:
        """Return the message of a chunk, b"" if it has nothing to tell yet."""
        first = chunk.index in self._before
        text = self._before.pop(chunk.index, "") + chunk.text
        if not (first or text or chunk.logprobs or chunk.finish_reason):
            return b""
        choice = self._dialect.delta(chunk.index, text, first)
        choice.logprobs.extend(map(_logprob, chunk.logprobs or ()))
        if chunk.finish_reason is not None:
            choice.finish_reason = chunk.finish_reason
            self._tally.finish(chunk)
        return self._head + _encoded(self._dialect.chunk(choices=[choice]))

    def closing(self) -> bytes:
        """Return the last message of a complete stream.

        Raises:
            EngineError: It is not complete.
        """
        self._tally.check()
        return self._head + _encoded(self._dialect.chunk(usage=usage_message(self._tally.usage())))


def model_message(status: ModelStatus) -> pb.Model:
    capabilities = status.capabilities
    return pb.Model(
        id=status.name,
        created=status.created,
        owned_by="openllm",
        state=status.state,
        context_length=capabilities.context_length if capabilities else 0,
    )


def usage_message(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        cached_tokens=usage.cached_tokens,
    )


def embeddings_answer(model: str, vectors: Sequence[bytes], prompt_tokens: int) -> bytes:
    """`vectors` are float32, in native byte order."""
    data = [
        pb.Embedding(index=index, embedding=array("f", vector))
        for index, vector in enumerate(vectors)
    ]
    usage = usage_message(Usage(prompt_tokens, 0))
    return _encoded(pb.EmbeddingsResponse(model=model, data=data, usage=usage))


def _logprob(token: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token=token.token,
        logprob=finite(token.logprob),
        bytes=bytes(token.bytes),
        top_logprobs=[
            pb.TopLogprob(token=each.token, logprob=finite(each.logprob), bytes=bytes(each.bytes))
            for each in token.top
        ],
    )


def _encoded(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
