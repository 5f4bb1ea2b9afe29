"""The client for asynchronous code: the calls of `Client`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import httpx2

from open_llm_client import protocol
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


class AsyncChatStream:
    """A reply, piece by piece: iterate once. The request is sent with the first step.

    `aclose`, leaving the `async with` block, or dropping the stream stops the server's work.
    """

    def __init__(self, pieces: AsyncGenerator[str, None], reply: Reply) -> None:
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

    async def aclose(self) -> None:
        await self._pieces.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class AsyncClient:
    """Talks to one server from one event loop. Make it with `create_async`.

    Connections are kept between calls, unless `keep_connections` is false: then each call has
    its own, and the client works in any number of loops.
    """

    def __init__(self, settings: Settings, *, keep_connections: bool = True) -> None:
        self._settings = settings
        self._options = connection_options(settings)
        self._keep_connections = keep_connections
        self._http: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"AsyncClient({self._settings.url!r})"

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
    ) -> Coroutine[Any, Any, ChatResult]: ...

    @overload
    def chat(
        self, prompt: str | None = None, *, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> AsyncChatStream: ...

    def chat(
        self, prompt: str | None = None, *, stream: bool = False, **options: Unpack[ChatOptions]
    ) -> Coroutine[Any, Any, ChatResult] | AsyncChatStream:
        """Reply to `prompt`, or to the last of `messages`: awaitable, or with `stream` an
        asynchronous iterator of pieces, which is not awaited itself.

        Raises:
            TypeError: An option has a name that is not in `ChatOptions`.
        """
        if not stream:
            return self._call(protocol.chat(prompt, options))
        reply = Reply()
        return AsyncChatStream(self._pieces(protocol.chat_stream(prompt, options), reply), reply)

    async def complete(self, prompt: str, **options: Unpack[CompletionOptions]) -> CompletionResult:
        """Continue a text, `n` times; there is no streamed form (`chat` has one)."""
        return await self._call(protocol.complete(prompt, options))

    async def embed(self, texts: Sequence[str], *, model: str | None = None) -> Embeddings:
        """Return one vector per text, in order: lists of floats, all of one length."""
        return await self._call(protocol.embed(texts, model))

    async def models(self) -> list[Model]:
        """Return the models served; the first answers requests that name none."""
        return await self._call(protocol.models())

    async def health(self) -> Health:
        """Ask once whether the server is ready."""
        return await self._call(protocol.health())

    async def is_ready(self) -> bool:
        """Whether the server is there and ready; raises only if something else answers."""
        try:
            return (await self.health()).ready
        except (ConnectionFailed, TimedOut):
            return False

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return when the server is ready.

        Raises:
            TimedOut: It is not ready after `timeout` seconds.
        """
        readiness = Readiness(self.url, timeout)
        while not await self.is_ready():  # noqa: ASYNC110 - the event is in another process
            await asyncio.sleep(readiness.pause())

    async def aclose(self) -> None:
        """Close the connections; safe to call twice."""
        if self._http is not None:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _call(self, call: Call[T]) -> T:
        async with self._connections() as http:
            response = await self._send(http, call)
            with translated(self._settings, call):
                async with aclosing(response):
                    return call.read(response.status_code, await response.aread())

    async def _pieces(self, call: Call[None], reply: Reply) -> AsyncGenerator[str, None]:
        async with self._connections() as http:
            response = await self._send(http, call)
            request_id = response.headers.get("x-request-id")
            with translated(self._settings, call, StreamInterrupted):
                async with aclosing(response):
                    async for event in httpx2.EventSource(response):
                        piece = reply.feed(event.data, request_id)
                        if piece:
                            yield piece
        reply.check_finished()

    async def _send(self, http: httpx2.AsyncClient, call: Call[Any]) -> httpx2.Response:
        """Return an answer that is no error, its body still to be read."""
        retries = Retries(0 if call.probe else self._settings.max_retries)
        while True:
            try:
                return await self._attempt(http, call)
            except ClientError as error:
                pause = retries.pause_after(error)
            await asyncio.sleep(pause)

    async def _attempt(self, http: httpx2.AsyncClient, call: Call[Any]) -> httpx2.Response:
        request = http.build_request(**request_options(self._settings, call))
        with translated(self._settings, call):
            response = await http.send(request, stream=True)
            if not call.is_answered_by(response.status_code):
                async with aclosing(response):
                    await response.aread()
                raise_for(response)
        return response

    @asynccontextmanager
    async def _connections(self) -> AsyncIterator[httpx2.AsyncClient]:
        if self._keep_connections:
            yield self._pool()
            return
        async with httpx2.AsyncClient(**self._options) as http:
            yield http

    def _pool(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._http is None:
            self._http, self._loop = httpx2.AsyncClient(**self._options), loop
        if self._loop is not loop:
            # Its open connections belong to the other loop, where alone they can be closed.
            raise RuntimeError("an AsyncClient works in one event loop; create one for each loop")
        return self._http
