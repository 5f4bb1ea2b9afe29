"""One gRPC call and its answer. Knows nothing of models or messages' meaning.

Every method is served as a stream both ways, which the wire cannot tell from a unary one: so the
key is checked before a message is read, reading has a time limit, and nothing is parsed that was
not asked for.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from time import monotonic, perf_counter
from typing import Any, TypeVar

import grpc

from openllm.config.server import ServerSettings
from openllm.errors import (
    DeadlineError,
    EngineUnavailableError,
    InvalidRequestError,
    OpenLLMError,
)
from openllm.fleet import Fleet
from openllm.server.access_log import log_access
from openllm.server.auth import ApiKeys
from openllm.server.body import IDLE_TIMEOUT
from openllm.server.errors import ProtocolError
from openllm.server.grpc_errors import error_metadata, grpc_code, grpc_message
from openllm.server.grpc_messages import parse_message
from openllm.server.guard import NO_KEY
from openllm.server.hosts import Headers
from openllm.server.offload import offload
from openllm.server.request_id import request_id

T = TypeVar("T")

logger = logging.getLogger("openllm.server")


class Call:
    """What a handler reads requests from and answers with.

    Attributes:
        unread_since: When, by `time.monotonic`, the answer was written that the client has not
            taken yet; None if it has taken all.
        standing: Whether it lasts until its client or the server ends: it has no time limit, and
            does not keep the server from ending.
    """

    def __init__(self, context: Any) -> None:
        self.unread_since: float | None = None
        self.standing = False
        self._context = context

    async def read(self, kind: type[Any], checked: Callable[[Any], T]) -> T:
        """Read the request; return what `checked` makes of it.

        Raises:
            DeadlineError: It does not come.
            InvalidRequestError: There is none, or it is not what it must be.
        """
        raw = await self.receive(IDLE_TIMEOUT)
        if raw is None:
            raise InvalidRequestError(
                "the call ended without a request message; send one", code="invalid_message"
            )
        return await offload(len(raw), lambda: checked(parse_message(raw, kind)))

    async def receive(self, timeout: float) -> bytes | None:
        """Return the next message the client sends, None after its last one.

        Raises:
            DeadlineError: None comes within `timeout` seconds.
        """
        try:
            raw = await asyncio.wait_for(self._context.read(), timeout)
        except asyncio.TimeoutError:
            raise DeadlineError(f"no request message came for {timeout:g} s") from None
        return raw if isinstance(raw, bytes) else None

    async def send(self, message: bytes) -> None:
        """Send an answer, or a part of it; waits while the client does not read."""
        self.unread_since = monotonic()
        await self._context.write(message)
        self.unread_since = None


Handler = Callable[[Call, Fleet], Awaitable[None]]


class Service:
    """What all calls share.

    Attributes:
        keys: Whose calls are served; may be replaced at any time.
    """

    def __init__(self, fleet: Fleet, settings: ServerSettings, keys: ApiKeys) -> None:
        self.fleet = fleet
        self.settings = settings
        self.keys = keys
        self._working: dict[asyncio.Task[None], Call] = {}

    def cancel(self, *, standing: bool = False) -> None:
        """End the calls that are under way, or the standing ones of them: their clients are told
        to come again."""
        for task, call in self._working.items():
            if call.standing or not standing:
                task.cancel()

    async def serve(self, path: str, handler: Handler, context: Any, *, open_to_all: bool) -> None:
        """Serve one call; `open_to_all` asks for no key."""
        started = perf_counter()
        headers = _headers(context)
        name = request_id(headers)
        context.set_trailing_metadata((("x-request-id", name),))
        status = "CANCELLED"
        try:
            error = await self._outcome(handler, context, open_to_all or self.keys.accepts(headers))
            status = grpc_code(error) if error else "OK"
            if error is not None:
                await _fail(context, error, name)
        finally:
            if self.settings.access_log:
                scope = {"method": "gRPC", "path": path, "state": {"request_id": name}}
                log_access(scope, status, perf_counter() - started)

    async def _outcome(self, handler: Handler, context: Any, keyed: bool) -> Exception | None:
        """Do the work; return what went wrong. Cancelled when the client leaves."""
        if not keyed:
            return ProtocolError(401, NO_KEY)
        call = Call(context)
        task = asyncio.ensure_future(handler(call, self.fleet))
        self._working[task] = call
        try:
            await self._watch(call, task)
        except OpenLLMError as error:
            return error
        finally:
            del self._working[task]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return _failure(task)

    async def _watch(self, call: Call, task: asyncio.Task[None]) -> None:
        """Wait for the task's end.

        Raises:
            DeadlineError: It takes too long, or the client does not read.
        """
        limit = self.settings.write_timeout
        deadline = monotonic() + self.settings.timeout
        while not task.done():
            now, due = monotonic(), math.inf if call.standing else deadline
            if now >= due:
                raise DeadlineError(f"the request took longer than {self.settings.timeout:g} s")
            since = now if call.unread_since is None else call.unread_since
            if now >= since + limit:
                raise DeadlineError(f"the answer was not read for {limit:g} s")
            await asyncio.wait((task,), timeout=min(due, since + limit) - now)


def _failure(task: asyncio.Task[None]) -> Exception | None:
    if task.cancelled():
        return EngineUnavailableError("the server is shutting down", retry_after=1)
    error = task.exception()
    return error if isinstance(error, Exception) else None


def _headers(context: Any) -> Headers:
    return [
        (key.encode("ascii", "replace"), value if isinstance(value, bytes) else value.encode())
        for key, value in context.invocation_metadata() or ()
    ]


async def _fail(context: Any, error: Exception, name: str) -> None:
    """End the call with an error; this waits while the client leaves messages unread."""
    code = grpc_code(error)
    if code == "INTERNAL":
        logger.error("request %s failed", name, exc_info=error)
    metadata = (("x-request-id", name), *error_metadata(error))
    await context.abort(grpc.StatusCode[code], grpc_message(error), metadata)
