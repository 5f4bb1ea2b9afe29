"""Handler of POST /pull: downloads a model into the store and streams how far it is.

Only for servers started with --allow-pull. A client may name hub ids, families and registered
models; never a path, whose existence would be told, nor a URL, as the server would then fetch from
any host that it can reach and the client cannot.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

import orjson
from pydantic import BaseModel, Field

from openllm.config.server import ServerSettings
from openllm.errors import (
    ConfigurationError,
    InvalidRequestError,
    ModelFetchError,
    ModelNotFoundError,
    OpenLLMError,
)
from openllm.fleet import Fleet
from openllm.models.ref import ModelRef, parse_ref
from openllm.server.errors import ProtocolError
from openllm.server.exchange import Exchange
from openllm.server.pull_events import progress_event, stored_event
from openllm.server.pulls import Fetch, Pull, Pulls
from openllm.server.sse import EventStream
from openllm.server.validation import WireModel, shorten

if TYPE_CHECKING:
    from openllm.config.download import DownloadOptions
    from openllm.models.pull import Progress
    from openllm.types import LocalModel

MAX_NAME = 512

NOT_ALLOWED = (
    "this server downloads no models for clients; start it with --allow-pull, or run openllm pull "
    "where it runs"
)


class PullRequest(WireModel):
    """Body of POST /pull."""

    model: str = Field(
        min_length=1,
        max_length=MAX_NAME,
        description="A hub id, such as org/name, org/name@revision or org/name:file.gguf, or the "
        "name of a family.",
    )


class PullEvent(BaseModel):
    """One event of POST /pull: a step on the way, or the last one, which has the tag."""

    phase: str | None = Field(
        None, description="waiting, downloading, verifying or done; not in the last event."
    )
    source: str | None = Field(None, description="The hub id that the model comes from.")
    file: str | None = Field(
        None, description='The file of which bytes have just come; "" if none.'
    )
    done: int | None = Field(None, description="Bytes of the model that are there.")
    total: int | None = Field(None, description="Bytes of the model; 0 while that is not known.")
    model: str | None = Field(None, description="What was asked for, in the last event.")
    tag: str | None = Field(
        None, description='The tag in the store, in the last event; "" for the bundled model.'
    )
    revision: str | None = Field(None, description="The commit, in the last event.")


class PullApi:
    """The route; its clients share downloads."""

    def __init__(
        self, settings: ServerSettings, options: DownloadOptions | None, pulls: Pulls
    ) -> None:
        """`options`: how to download; by the environment if None."""
        self._allowed = settings.allow_pull
        self._options = options
        self._pulls = pulls

    async def pull(self, exchange: Exchange, _: Fleet) -> None:
        """POST /pull"""
        if not self._allowed:
            raise ProtocolError(403, NOT_ALLOWED)
        wire = await exchange.read(PullRequest)
        ref = _allowed_ref(wire.model)
        meant = await asyncio.to_thread(_meaning, ref)
        key = (meant.origin or meant.source, meant.revision, meant.file)

        async def produce(events: EventStream) -> None:
            # A client that has left before this begins nothing.
            await _pump(self._pulls.join(key, self._fetcher(ref)), wire.model, events)

        await exchange.stream(produce)

    def _fetcher(self, ref: ModelRef) -> Fetch:
        def fetch(
            on_progress: Callable[[Progress], None], cancelled: threading.Event
        ) -> LocalModel:
            from openllm.llm.fetching import local_model

            return local_model(ref, self._options, on_progress=on_progress, cancelled=cancelled)

        return fetch


def _allowed_ref(text: str) -> ModelRef:
    """Parse `text`; raises `InvalidRequestError` for what is no model, or none for clients."""
    try:
        ref = parse_ref(text)
    except ConfigurationError as error:
        raise InvalidRequestError(error.message, param="model") from None
    if ref.name or ref.kind not in ("hub", "name"):
        raise _refused(text)
    return ref


def _meaning(ref: ModelRef) -> ModelRef:
    """Return the hub id that `ref` stands for; a bare name is not looked for on disk.

    Raises:
        InvalidRequestError: It is a folder of this machine.
        ModelNotFoundError: It is a bare name that nothing is known by.
    """
    from openllm.models import families
    from openllm.models.locate import expand
    from openllm.models.registry import REGISTRY

    known = ref.source in REGISTRY or families.variant(ref.source) is not None
    if ref.kind == "name" and not known:
        raise ModelNotFoundError(
            f"no model or family is known by the name {shorten(ref.source)}; openllm models lists "
            "them, and a hub id is written org/name",
            param="model",
        )
    meant = expand(ref)
    if ref.kind == "hub" and meant.kind == "path":
        raise _refused(ref.source)
    return meant


def _refused(text: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"model must be a hub id such as org/name, or the name of a family, got {shorten(text)}; "
        "files and URLs are for openllm pull, where the server runs",
        param="model",
    )


async def _pump(pull: Pull, asked: str, events: EventStream) -> None:
    async with aclosing(pull.follow()) as steps:
        async for progress in steps:
            # While only the listing is asked for, a refusal can still be the answer's status.
            if progress.phase != "listing":
                await events.write(b"data: %b\n\n" % orjson.dumps(progress_event(progress)))
    last = stored_event(asked, _result(pull))
    await events.write(b"data: %b\n\n" % orjson.dumps(last))


def _result(pull: Pull) -> LocalModel:
    """Return the model; what kept it from coming is put into words for a client."""
    try:
        return pull.result()
    except ConfigurationError as error:
        message = _without_folder(error)
        raise InvalidRequestError(message, param="model", code=error.code) from error
    except ModelFetchError as error:
        raise ModelFetchError(_without_folder(error), param="model") from error


def _without_folder(error: OpenLLMError) -> str:
    """Return the message without where the store lies, which is no client's business."""
    from openllm.models.store import home

    return error.message.replace(str(home()), "the store")
