"""One HTTP request and its answer, over plain ASGI. Knows nothing of models or dialects.

The client is watched from the moment its request is read: when it leaves, or the time for the
request is over, the work is cancelled at once, and with it the engine's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any, Protocol, TypeVar

from starlette.types import Receive, Scope, Send

from openllm.config.server import ServerSettings
from openllm.errors import DeadlineError, EngineUnavailableError
from openllm.fleet import Fleet
from openllm.server.body import ClientDisconnectedError, parse_request, read_body
from openllm.server.errors import RawHeaders, error_json, error_reply, error_status
from openllm.server.sse import EventStream, SlowClientError
from openllm.server.validation import WireModel

T = TypeVar("T")
Request = TypeVar("Request", bound=WireModel)

logger = logging.getLogger("openllm.server")

JSON = (b"content-type", b"application/json")


class Watchdog(Protocol):
    """Something to look after while the work goes on."""

    def due(self) -> float:
        """When, by `time.monotonic`, `check` is to be called next."""

    async def check(self) -> None: ...


class _Nothing:
    def due(self) -> float:
        return float("inf")

    async def check(self) -> None:
        pass


class Exchange:
    """What a handler reads the request from and answers with."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, settings: ServerSettings
    ) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._settings = settings
        self._answered = False
        self._events: EventStream | None = None
        self._deadline = monotonic() + settings.timeout

    @property
    def request_id(self) -> str:
        return str(self.scope.get("state", {}).get("request_id", ""))

    async def read(self, model: type[Request], *, array_field: str | None = None) -> Request:
        """Read and validate the JSON body; an array in place of an object is that field's value.

        Raises:
            ProtocolError: It is too large, too slow or not declared as JSON.
            InvalidRequestError: It is no JSON, or not what `model` asks for.
        """
        raw = await read_body(self.scope, self._receive, self._settings.max_body_bytes)
        if array_field is not None and raw.lstrip()[:1] == b"[":
            raw = b'{"%b":%b}' % (array_field.encode(), raw)
        return await parse_request(raw, model)

    def resolve(self, fleet: Fleet, name: str | None) -> str:
        """Return the served model that the request means; it is then counted as that model's.

        Raises:
            ModelNotFoundError: It is not served here.
        """
        model = fleet.resolve(name)
        self.scope.setdefault("state", {})["model"] = model
        return model

    async def answer(self, body: bytes, *, status: int = 200, headers: RawHeaders = ()) -> None:
        """Send a JSON answer."""
        self._answered = True
        all_headers = [JSON, (b"content-length", b"%d" % len(body)), *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": all_headers})
        await self._send({"type": "http.response.body", "body": body})

    async def fail(self, error: Exception) -> None:
        """Answer with the error, or end the stream with it."""
        if error_status(error) == 500:
            logger.error("request %s failed", self.request_id, exc_info=error)
        if self._events is not None and self._events.started:
            await self._events.fail(error_json(error))
        elif not self._answered:
            reply = error_reply(error)
            await self.answer(reply.body, status=reply.status, headers=reply.headers)

    async def stream(self, produce: Callable[[EventStream], Coroutine[Any, Any, None]]) -> None:
        """Answer with server-sent events: those that `produce` writes."""
        events = self._events = EventStream(self._send, self._settings.write_timeout)
        await self.run(produce(events), events)
        await events.end()

    async def run(self, work: Coroutine[Any, Any, T], watchdog: Watchdog | None = None) -> T:
        """Await `work`; cancel it when the client leaves or its time is over.

        Raises:
            ClientDisconnectedError: The client left.
            DeadlineError: The request took longer than the server allows.
        """
        watchdog = watchdog or _Nothing()
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self._disconnect())
        try:
            while not task.done():
                wait = min(self._deadline, watchdog.due()) - monotonic()
                await asyncio.wait(
                    (task, gone), timeout=max(wait, 0), return_when=asyncio.FIRST_COMPLETED
                )
                if not task.done():
                    await self._look_after(gone, watchdog)
            return task.result()
        finally:
            await _cancel(task, gone)

    async def _look_after(self, gone: asyncio.Future[None], watchdog: Watchdog) -> None:
        if gone.done():
            raise ClientDisconnectedError
        if monotonic() >= self._deadline:
            raise DeadlineError(f"the request took longer than {self._settings.timeout:g} s")
        await watchdog.check()

    async def _disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Handler = Callable[[Exchange, Fleet], Awaitable[None]]


class Endpoint:
    """A handler as an ASGI app: whatever it raises becomes the answer."""

    def __init__(self, handler: Handler, fleet: Fleet, settings: ServerSettings) -> None:
        self._handler = handler
        self._fleet = fleet
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self._settings)
        try:
            await self._answer(exchange)
        except ClientDisconnectedError:
            logger.debug("request %s: the client left", exchange.request_id)
        except SlowClientError:
            logger.warning("request %s: the client does not read", exchange.request_id)
            await _abort(scope)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._handler(exchange, self._fleet)
        except (ClientDisconnectedError, SlowClientError):
            raise
        except asyncio.CancelledError:
            await exchange.fail(
                EngineUnavailableError("the server is shutting down", retry_after=1)
            )
            raise
        except Exception as error:
            await exchange.fail(error)


async def _abort(scope: Scope) -> None:
    """Drop the connection with what is still unsent, where the server lets us reach it."""
    abort = scope.get("extensions", {}).get("openllm.abort")
    if abort is not None:
        abort()
        await asyncio.sleep(0)  # The server learns of it in the loop's next turn.
