"""How calls reach a runnable: in this process, or from the service's process to the runner's own.

BentoML's own handles run one method at a time, lose what an error meant on its way between the
processes, and carry streams as text that may be cut inside a character. So here calls run at the
same time and share the engine's batch, a failed call returns what went wrong, and the items of a
stream are lines of JSON in ASCII, of which the last says that it is the end.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from threading import Lock
from typing import Any

import msgspec
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from bentoml._internal.runner.runner_handle import RunnerHandle
from bentoml._internal.runner.runner_handle.remote import RemoteRunnerClient
from bentoml.exceptions import BadInput, RemoteException
from starlette.concurrency import iterate_in_threadpool

from openllm.errors import EngineCrashedError, InvalidRequestError, OpenLLMError
from openllm.llm.bridge import ending_calls
from openllm.llm.output import GenerationOutput
from openllm.runner.wire import Failure

logger = logging.getLogger("openllm.bento")

MOST_CALLS = 256
"""Calls in progress in one process; more wait. Streams are not counted."""


class BadRequestError(InvalidRequestError, BadInput):
    """A call that cannot be honoured; a service that lets it pass answers with status 400."""


_FOREIGN: dict[str, type[Exception]] = {
    "TypeError": TypeError,
    "ValueError": ValueError,
    "RemoteException": RemoteException,
}
"""What errors that are not ours become on their way; the last is for all others."""


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a stream; without anything, the end of it."""

    value: Any = None
    output: GenerationOutput | None = None
    failed: Failure | None = None


class InProcess(RunnerHandle):
    """Calls the runnable in this process; it is made, and its model loaded, by the first call."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._made: Any = None
        self._making = Lock()
        self._limiter = CapacityLimiter(MOST_CALLS)

    def load(self) -> Any:
        """Return the runnable. Blocks while the model is loaded."""
        with self._making:
            if self._made is None:
                runner = self._runner
                self._made = runner.runnable_class(**runner.runnable_init_params)
            return self._made

    async def is_ready(self, timeout: int) -> bool:
        return True

    def run_method(self, method: Any, /, *args: Any, **options: Any) -> Any:
        with _refusals():
            return getattr(self.load(), method.name)(*args, **options)

    async def async_run_method(self, method: Any, /, *args: Any, **options: Any) -> Any:
        call = partial(self.run_method, method, *args, **options)
        with ending_calls():
            return await run_sync(call, limiter=self._limiter, abandon_on_cancel=True)

    async def async_stream_method(
        self, method: Any, /, *args: Any, **options: Any
    ) -> AsyncGenerator[Any, None]:
        runnable = await run_sync(self.load, abandon_on_cancel=True)
        with _refusals():
            items = getattr(runnable, method.name)(*args, **options)
            if not inspect.isasyncgen(items):  # A user's own method may be a plain generator.
                items = _iterated(items)
            async with aclosing(items):
                async for item in items:
                    yield item


class Serving(InProcess):
    """Calls the runnable in the runner's own process, for `Remote` in that of the service.

    No error gets to BentoML's server there, which does not end a stream that fails.
    """

    def run_method(self, method: Any, /, *args: Any, **options: Any) -> Any:
        try:
            return super().run_method(method, *args, **options)
        except Exception as error:
            return self._failed(method, error)

    async def async_stream_method(
        self, method: Any, /, *args: Any, **options: Any
    ) -> AsyncGenerator[Any, None]:
        stream = super().async_stream_method(method, *args, **options)
        try:
            async with aclosing(stream) as items:
                async for item in items:
                    whole = isinstance(item, GenerationOutput)
                    yield _line(Item(output=item) if whole else Item(value=item))
        except Exception as error:
            yield _line(Item(failed=self._failed(method, error)))
        else:
            yield _line(Item())

    def _failed(self, method: Any, error: Exception) -> Failure:
        if not isinstance(error, OpenLLMError):
            logger.error("%s.%s failed", self._runner.name, method.name, exc_info=error)
        return failure_of(error)


class Remote(RemoteRunnerClient):
    """Calls a runner in its own process from that of the service."""

    async def async_run_method(self, method: Any, /, *args: Any, **options: Any) -> Any:
        result = await super().async_run_method(method, *args, **options)
        if isinstance(result, Failure):
            with _refusals():
                raise error_of(result)
        return result

    async def async_stream_method(
        self, method: Any, /, *args: Any, **options: Any
    ) -> AsyncGenerator[Any, None]:
        stream = super().async_stream_method(method, *args, **options)
        with _refusals():
            async with aclosing(_lines(stream, self._runner.name)) as lines:
                async for line in lines:
                    item = msgspec.json.decode(line, type=Item)
                    if item.failed is not None:
                        raise error_of(item.failed)
                    if item == Item():
                        return
                    yield item.value if item.output is None else item.output
        raise _cut_off(self._runner.name)


@contextmanager
def _refusals() -> Iterator[None]:
    """Make a refused call an error of BentoML's too."""
    try:
        yield
    except BadRequestError:
        raise
    except InvalidRequestError as error:
        raise BadRequestError(error.message, param=error.param, code=error.code) from error


def failure_of(error: Exception) -> Failure:
    """Return an error as it goes to the process that called."""
    if isinstance(error, OpenLLMError):
        return Failure.of(error)
    kinds = (kind for kind, known in _FOREIGN.items() if isinstance(error, known))
    kind = next(kinds, "RemoteException")
    plain = type(error) is _FOREIGN[kind]
    return Failure(kind, str(error) if plain else f"{type(error).__name__}: {error}")


def error_of(failure: Failure) -> Exception:
    """Return it again over there."""
    foreign = _FOREIGN.get(failure.kind)
    return failure.error() if foreign is None else foreign(failure.message)


def _line(item: Item) -> str:
    return json.dumps(msgspec.to_builtins(item, str_keys=True)) + "\n"


async def _lines(pieces: AsyncGenerator[str, None], runner: str) -> AsyncGenerator[str, None]:
    """Yield the whole lines of a text that comes in pieces."""
    import aiohttp

    rest = ""
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                *lines, rest = (rest + piece).split("\n")
                for line in lines:
                    yield line
    except aiohttp.ClientPayloadError as error:
        raise _cut_off(runner) from error


async def _iterated(items: Any) -> AsyncGenerator[Any, None]:
    async for item in iterate_in_threadpool(items):
        yield item


def _cut_off(runner: str) -> EngineCrashedError:
    return EngineCrashedError(f"the process of runner {runner!r} ended a stream early; see its log")
