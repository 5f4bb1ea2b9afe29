"""The client for ordinary code: calls block, and need no event loop of the caller's."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import httpx2

from open_llm_client import protocol
from open_llm_client.async_client import AsyncChatStream, AsyncClient
from open_llm_client.errors import (
    ClientError,
    ConnectionFailed,
    StreamInterrupted,
    TimedOut,
)
from open_llm_client.protocol import Call, ChatOptions, CompletionOptions, Embeddings, Reply
from open_llm_client.results import ChatResult, CompletionResult, Health, Model
from open_llm_client.retries import Readiness, Retries
from open_llm_client.settings import Settings
from open_llm_client.transport import connection_options, raise_for, request_options, translated

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

T = TypeVar("T")


class ChatStream:
    """A reply, piece by piece: iterate once. The request is sent with the first step.

    `close`, leaving the `with` block, or dropping the stream stops the server's work.
    """

    def __init__(self, pieces: Generator[str, None, None], reply: Reply) -> None:
        self._pieces = pieces
        self._reply = reply

    @property
    def message(self) -> str:
        """The reply so far."""
        return self._reply.message

    @property
    def configuration(self) -> dict[str, Any]:
        """The settings the reply was made with; empty until it is whole."""
        return self._reply.configuration

    def close(self) -> None:
        self._pieces.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Client:
    """Talks to one server; safe to share between threads. Make it with `create`.

    Every method raises a `ClientError`; see `open_llm_client.errors` for the tree.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http = httpx2.Client(**connection_options(settings))
        self._async = AsyncClient(settings, keep_connections=False)

    def __repr__(self) -> str:
        return f"Client({self._settings.url!r})"

    @property
    def url(self) -> str:
        """Address of the server, normalised."""
        return self._settings.url

    @overload
    def chat(
        self,
        prompt: str | None = None,
        *,
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> ChatResult: ...

    @overload
    def chat(
        self, prompt: str | None = None, *, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> ChatStream: ...

    def chat(
        self, prompt: str | None = None, *, stream: bool = False, **options: Unpack[ChatOptions]
    ) -> ChatResult | ChatStream:
        """Reply to `prompt`, or to the last of `messages`; whole, or with `stream` in pieces.

        Raises:
            TypeError: An option has a name that is not in `ChatOptions`.
        """
        if not stream:
            return self._call(protocol.chat(prompt, options))
        reply = Reply()
        return ChatStream(self._pieces(protocol.chat_stream(prompt, options), reply), reply)

    def complete(self, prompt: str, **options: Unpack[CompletionOptions]) -> CompletionResult:
        """Continue a text, `n` times; there is no streamed form (`chat` has one)."""
        return self._call(protocol.complete(prompt, options))

    def embed(self, texts: Sequence[str], *, model: str | None = None) -> Embeddings:
        """Return one vector per text, in order: lists of floats, all of one length."""
        return self._call(protocol.embed(texts, model))

    @overload
    def async_chat(
        self,
        prompt: str | None = None,
        *,
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> Coroutine[Any, Any, ChatResult]: ...

    @overload
    def async_chat(
        self, prompt: str | None = None, *, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> AsyncChatStream: ...

    def async_chat(
        self, prompt: str | None = None, *, stream: bool = False, **options: Unpack[ChatOptions]
    ) -> Coroutine[Any, Any, ChatResult] | AsyncChatStream:
        """The awaitable form of `chat`; with `stream`, an async iterator of pieces.

        Each call opens a connection of its own, so it works in any event loop. An `AsyncClient`
        keeps connections, which is faster for many calls in one loop.
        """
        if stream:
            return self._async.chat(prompt, stream=True, **options)
        return self._async.chat(prompt, **options)

    def async_complete(
        self, prompt: str, **options: Unpack[CompletionOptions]
    ) -> Coroutine[Any, Any, CompletionResult]:
        """The awaitable form of `complete`."""
        return self._async.complete(prompt, **options)

    def async_embed(
        self, texts: Sequence[str], *, model: str | None = None
    ) -> Coroutine[Any, Any, Embeddings]:
        """The awaitable form of `embed`."""
        return self._async.embed(texts, model=model)

    def models(self) -> list[Model]:
        """Return the models served; the first answers requests that name none."""
        return self._call(protocol.models())

    def health(self) -> Health:
        """Ask once whether the server is ready."""
        return self._call(protocol.health())

    def is_ready(self) -> bool:
        """Whether the server is there and ready; raises only if something else answers."""
        try:
            return self.health().ready
        except (ConnectionFailed, TimedOut):
            return False

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return when the server is ready.

        Raises:
            TimedOut: It is not ready after `timeout` seconds.
        """
        readiness = Readiness(self.url, timeout)
        while not self.is_ready():
            time.sleep(readiness.pause())

    def close(self) -> None:
        """Close the connections; safe to call twice."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, call: Call[T]) -> T:
        response = self._send(call)
        with translated(self._settings, call), closing(response):
            return call.read(response.status_code, response.read())

    def _pieces(self, call: Call[None], reply: Reply) -> Generator[str, None, None]:
        response = self._send(call)
        request_id = response.headers.get("x-request-id")
        with translated(self._settings, call, StreamInterrupted), closing(response):
            for event in httpx2.EventSource(response):
                piece = reply.feed(event.data, request_id)
                if piece:
                    yield piece
        reply.check_finished()

    def _send(self, call: Call[Any]) -> httpx2.Response:
        """Return an answer that is no error, its body still to be read."""
        retries = Retries(0 if call.probe else self._settings.max_retries)
        while True:
            try:
                return self._attempt(call)
            except ClientError as error:
                pause = retries.pause_after(error)
            time.sleep(pause)

    def _attempt(self, call: Call[Any]) -> httpx2.Response:
        request = self._http.build_request(**request_options(self._settings, call))
        with translated(self._settings, call):
            response = self._http.send(request, stream=True)
            if not call.is_answered_by(response.status_code):
                with closing(response):
                    response.read()
                raise_for(response)
        return response
