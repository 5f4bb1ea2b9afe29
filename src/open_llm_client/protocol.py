"""What is said to the server and what its answers mean. Knows no sockets and no event loop.

Both drivers (`Client`, `AsyncClient`) send what this module builds and hand back what they got.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypedDict, TypeVar

import msgspec

from open_llm_client.errors import (
    ApiError,
    BadRequest,
    ServerError,
    StreamInterrupted,
    UnexpectedAnswer,
    class_for_status,
)
from open_llm_client.results import ChatResult, CompletionResult, Health, Model
from open_llm_client.retries import seconds_to_wait

T = TypeVar("T")

Embeddings = list[list[float]]


class Message(TypedDict):
    """One turn of a conversation: `role` is system, user or assistant."""

    role: str
    content: str


class SamplingOptions(TypedDict, total=False):
    """How tokens are chosen. What is left out, or None, is the server's default.

    The server checks the ranges: 0 to 1 for temperature, top_p and the penalties. `echo` begins
    the text with the prompt.
    """

    model: str | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    stop_sequence: str | list[str] | None
    frequency_penalty: float | None
    presence_penalty: float | None
    max_tokens: int | None
    seed: int | None
    echo: bool | None


class ChatOptions(SamplingOptions, total=False):
    """`messages` is the conversation so far, in place of `prompt`."""

    messages: Sequence[Message] | None


class CompletionOptions(SamplingOptions, total=False):
    """`n` is the number of continuations to make."""

    n: int | None


class Call(msgspec.Struct, Generic[T], frozen=True):
    """One request, and how to read its answer: `read` takes the status and the body.

    A `probe` asks how the server is: it is sent once, waits for a few seconds at most, and status
    503 is an answer too.
    """

    method: str
    path: str
    read: Callable[[int, bytes], T]
    content: bytes | None = None
    probe: bool = False

    def is_answered_by(self, status: int) -> bool:
        return 200 <= status < 300 or (self.probe and status == 503)


def chat(prompt: str | None, options: ChatOptions) -> Call[ChatResult]:
    """Build a request for one whole reply."""
    content = _body("chat", ChatOptions, options, prompt=prompt)
    return Call("POST", "/chat", _reader(ChatResult), content)


def chat_stream(prompt: str | None, options: ChatOptions) -> Call[None]:
    """Build a request for a reply as server-sent events; `Reply` reads them."""
    content = _body("chat", ChatOptions, options, prompt=prompt)
    return Call("POST", "/chat-sse", lambda *_: None, content)


def complete(prompt: str, options: CompletionOptions) -> Call[CompletionResult]:
    """Build a request that continues a text."""
    content = _body("complete", CompletionOptions, options, prompt=prompt)
    return Call("POST", "/complete", _reader(CompletionResult), content)


def embed(texts: Sequence[str], model: str | None) -> Call[Embeddings]:
    """Build a request for one vector per text.

    Raises:
        TypeError: `texts` is one string: its characters are hardly what was meant.
    """
    if isinstance(texts, str):
        raise TypeError("embed() takes a list of texts; for one text write embed([text])[0]")
    content = _encode({"input": list(texts), "model": model})
    return Call("POST", "/embed", _reader(Embeddings), content)


def models() -> Call[list[Model]]:
    """Build a request for the models served."""
    return Call("GET", "/v1/models", lambda _, body: _read(body, _ModelList).data)


def health() -> Call[Health]:
    """Build a request for the server's readiness."""
    return Call(
        "GET", "/readyz", lambda status, body: Health(status < 300, _details(body)), probe=True
    )


class Reply:
    """A streamed reply as it grows.

    Attributes:
        configuration: The settings it was made with; empty until the reply is whole.
        finished: Whether the reply is whole.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.configuration: dict[str, Any] = {}
        self.finished = False

    @property
    def message(self) -> str:
        return "".join(self._pieces)

    def feed(self, data: str, request_id: str | None) -> str:
        """Take in the data of one event and return the text it adds.

        Raises:
            ApiError: The event is an error.
            msgspec.DecodeError: It is no event of this protocol.
        """
        if self.finished:
            return ""
        event = msgspec.json.decode(data, type=_StreamEvent)
        if event.error is not None:
            raise _stream_error(event.error, request_id)
        if event.configuration is not None:
            self.configuration, self.finished = event.configuration, True
        if event.text:
            self._pieces.append(event.text)
        return event.text

    def check_finished(self) -> None:
        """Raise `StreamInterrupted` if the stream ended before the reply did."""
        if not self.finished:
            raise StreamInterrupted("the stream ended before the reply did: ask again")


def error_from(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """Turn an answer with a status of 300 or more into the error it means."""
    try:
        info = msgspec.json.decode(body, type=_ErrorBody).error
    except msgspec.DecodeError:
        info = _ErrorInfo(message=_foreign_message(status, headers, body))
    return class_for_status(status)(
        info.message,
        status=status,
        type=info.type,
        code=None if info.code is None else str(info.code),
        param=info.param,
        request_id=headers.get("x-request-id"),
        retry_after=seconds_to_wait(headers),
    )


def unexpected(url: str, path: str) -> UnexpectedAnswer:
    """Return the error for an answer that is not of this protocol."""
    return UnexpectedAnswer(
        f"the answer of {url}{path} is not OpenLLM-Server's: is the address right, "
        "and is the server as new as this client?"
    )


class _ModelList(msgspec.Struct):
    data: list[Model]


class _ErrorInfo(msgspec.Struct):
    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorInfo


class _StreamEvent(msgspec.Struct):
    text: str = ""
    configuration: dict[str, Any] | None = None
    error: _ErrorInfo | None = None


def _stream_error(info: _ErrorInfo, request_id: str | None) -> ApiError:
    kind = BadRequest if info.type == "invalid_request_error" else ServerError
    code = None if info.code is None else str(info.code)
    return kind(info.message, type=info.type, code=code, param=info.param, request_id=request_id)


def _foreign_message(status: int, headers: Mapping[str, str], body: bytes) -> str:
    """Describe an error that did not come in our shape: a proxy's, or another server's."""
    if "location" in headers:
        return f"the server moved to {headers['location']!r}: create the client with that address"
    text = " ".join(body.decode("utf-8", "replace").split())
    return text[:200] or f"the server answered status {status} without saying why"


def _body(method: str, known: type, options: Mapping[str, Any], **own: Any) -> bytes:
    _refuse_unknown(method, known.__optional_keys__, options)  # type: ignore[attr-defined]
    return _encode({**own, **options})


def _encode(fields: Mapping[str, Any]) -> bytes:
    given = {name: value for name, value in fields.items() if value is not None}
    # NaN is no JSON; msgspec would send it as null, which means something else.
    return json.dumps(given, allow_nan=False, separators=(",", ":")).encode()


def _refuse_unknown(method: str, known: Iterable[str], options: Iterable[str]) -> None:
    for name in options:
        if name not in known:
            raise TypeError(
                f"{method}() got an unexpected keyword argument {name!r}; "
                f"it takes {', '.join(sorted(known))}"
            )


def _read(body: bytes, shape: type[T]) -> T:
    return msgspec.json.decode(body, type=shape)


def _reader(shape: type[T]) -> Callable[[int, bytes], T]:
    return lambda _, body: _read(body, shape)


def _details(body: bytes) -> dict[str, Any]:
    try:
        return _read(body, dict[str, Any])
    except msgspec.DecodeError:
        return {}
