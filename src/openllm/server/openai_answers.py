"""OpenAI's answers: what chat and plain completions share, as one object or as events.

The two dialects differ in a few constant bytes, so they are data (`Dialect`), not two classes. All
that stays the same through a stream is encoded once; of a chunk only its text is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Any, NamedTuple

import orjson

from openllm.fleet import ModelStatus
from openllm.server.generation import Choice, Tally
from openllm.server.sse import DONE
from openllm.types import CompletionChunk, TokenLogprob, Usage

# A token that cannot occur has no finite logprob; OpenAI reports this number.
_LEAST_LOGPROB = -9999.0

# One for the life of the process: ids tell apart what two servers of a model answered.
_INSTANCE = token_hex(4)


class Dialect(NamedTuple):
    """What distinguishes the answers of one API from those of the other."""

    object: str
    chunk_object: str
    text_open: bytes
    text_close: bytes
    opening: bytes
    finish: bytes
    message: Callable[[str], dict[str, Any]]
    logprobs: Callable[[Sequence[TokenLogprob], int], dict[str, Any]]


class Answer(NamedTuple):
    """What every part of an answer says about the whole."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def begin(cls, status: ModelStatus) -> Answer:
        answer_id = f"{status.name}:{_INSTANCE}-{token_hex(6)}"
        return cls(answer_id, int(time.time()), status.name, status.fingerprint)

    def fields(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, **self._asdict()}


def _chat_logprobs(tokens: Sequence[TokenLogprob], _: int) -> dict[str, Any]:
    content = [
        {**_chat_token(token), "top_logprobs": [_chat_token(each) for each in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _chat_token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": finite(token.logprob), "bytes": token.bytes}


def _completion_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """`offset`: characters of the text before the first token."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [finite(token.logprob) for token in tokens],
        "top_logprobs": [
            {each.token: finite(each.logprob) for each in token.top} or None for token in tokens
        ],
        "text_offset": offsets,
    }


def finite(logprob: float) -> float:
    """Return a logprob as answers hold it: a number, however unlikely the token."""
    return max(logprob, _LEAST_LOGPROB)


CHAT = Dialect(
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    text_open=b'"delta":{"content":',
    text_close=b"}",
    opening=b'"delta":{"role":"assistant","content":""}',
    finish=b'"delta":{}',
    message=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    logprobs=_chat_logprobs,
)
COMPLETION = Dialect(
    object="text_completion",
    chunk_object="text_completion",
    text_open=b'"text":',
    text_close=b"",
    opening=b"",
    finish=b'"text":""',
    message=lambda text: {"text": text},
    logprobs=_completion_logprobs,
)


def to_json(value: object) -> bytes:
    """Encode for an event: line separators of Unicode, where some clients cut, are escaped."""
    data = orjson.dumps(value)
    if data.isascii():
        return data
    return (
        data.replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
        .replace(b"\xc2\x85", b"\\u0085")
    )


def usage_fields(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def whole_answer(
    dialect: Dialect,
    answer: Answer,
    choices: Sequence[Choice],
    usage: Usage,
    *,
    logprobs: bool,
    echo: Sequence[str] = (),
) -> bytes:
    """Return the answer that is not streamed; `echo` precedes the text of each choice."""
    parts = []
    for index, choice in enumerate(choices):
        before = echo[index] if echo else ""
        part = {
            "index": index,
            **dialect.message(before + choice.text),
            "logprobs": dialect.logprobs(choice.logprobs, len(before)) if logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        # One at a time: a single call for all would not let other threads run meanwhile.
        parts.append(orjson.dumps(part))
    head = orjson.dumps(answer.fields(dialect.object))[:-1]
    tail = orjson.dumps({"usage": usage_fields(usage)})[1:]
    return b'%b,"choices":[%b],%b' % (head, b",".join(parts), tail)


class EventEncoder:
    """Chunks to the bytes of their events.

    Args:
        usage: End with a chunk of the token counts; the others then say `"usage": null`.
        echo: Text sent before that of each choice.
    """

    def __init__(
        self,
        dialect: Dialect,
        answer: Answer,
        tally: Tally,
        *,
        usage: bool,
        logprobs: bool,
        echo: Sequence[str] = (),
    ) -> None:
        self._dialect = dialect
        self._tally = tally
        self._usage = usage
        self._logprobs = logprobs
        self._echo = echo
        head = to_json(answer.fields(dialect.chunk_object))[:-1]
        self._head = b"data: " + head + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if usage else b"]}\n\n"
        self._choice = [self._head + b'{"index":%d,' % index for index in range(tally.choices)]
        self._before = [choice + dialect.text_open for choice in self._choice]
        self._after = dialect.text_close + b',"logprobs":null,"finish_reason":null}' + self._tail
        self._offsets = [len(text) for text in echo] or [0] * tally.choices

    def opening(self) -> bytes:
        """Return what comes before the first text."""
        if self._dialect.opening:
            rest = self._dialect.opening + b',"logprobs":null,"finish_reason":null}' + self._tail
            return b"".join(choice + rest for choice in self._choice)
        return b"".join(
            before + to_json(text) + self._after
            for before, text in zip(self._before, self._echo, strict=False)
        )

    def encode(self, chunk: CompletionChunk) -> bytes:
        """Return the events of a chunk, none if it has nothing to tell yet."""
        if self._logprobs and chunk.logprobs:
            events = self._with_logprobs(chunk, chunk.logprobs)
        elif chunk.text:
            events = self._before[chunk.index] + to_json(chunk.text) + self._after
        else:
            events = b""
        return events if chunk.finish_reason is None else events + self._finish(chunk)

    def closing(self) -> bytes:
        """Return what ends a complete stream.

        Raises:
            EngineError: It is not complete.
        """
        self._tally.check()
        if not self._usage:
            return DONE
        usage = to_json(usage_fields(self._tally.usage()))
        return self._head + b'],"usage":' + usage + b"}\n\n" + DONE

    def _with_logprobs(self, chunk: CompletionChunk, tokens: Sequence[TokenLogprob]) -> bytes:
        offset = self._offsets[chunk.index]
        self._offsets[chunk.index] += sum(len(token.token) for token in tokens)
        return (
            self._before[chunk.index]
            + to_json(chunk.text)
            + self._dialect.text_close
            + b',"logprobs":'
            + to_json(self._dialect.logprobs(tokens, offset))
            + b',"finish_reason":null}'
            + self._tail
        )

    def _finish(self, chunk: CompletionChunk) -> bytes:
        self._tally.finish(chunk)
        reason = b',"logprobs":null,"finish_reason":' + to_json(chunk.finish_reason)
        return self._choice[chunk.index] + self._dialect.finish + reason + b"}" + self._tail
