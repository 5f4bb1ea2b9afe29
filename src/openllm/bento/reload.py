"""Reading the configuration again while the server runs: what can change does so in place.

A configuration with a mistake changes nothing. Knows nothing of signals or routes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import TYPE_CHECKING

from openllm.bento.ahead import check_ahead
from openllm.bento.checks import check, fetch, warn_if_open
from openllm.bento.options import blame
from openllm.bento.preflight import check_memory_ahead
from openllm.config.effective import Configuration
from openllm.config.given_file import content_of
from openllm.config.models_dir import undone_on_failure
from openllm.config.names import flag
from openllm.config.server import ServerSettings
from openllm.errors import OpenLLMError
from openllm.fleet import Fleet, Replaced
from openllm.llm.aside import aside
from openllm.models.offers import asked_once

if TYPE_CHECKING:
    from openllm.bento.checks import OnProgress
    from openllm.config.download import DownloadOptions
    from openllm.types import LocalModel

logger = logging.getLogger("openllm")

Read = Callable[[], Configuration]
Apply = Callable[["ServerSettings", "DownloadOptions"], None]

IN_PLACE = frozenset({
    "api_key", "api_key_file", "allowed_host", "allowed_origin", "max_body_bytes", "timeout",
    "write_timeout", "models_dir", "allow_pull", "access_log", "log_level",
})  # fmt: skip
"""Settings of the server that hold for the next request; the others need a new process."""

NOT_BY_GRPC = frozenset({"max_body_bytes"})
"""Those of them that gRPC's core is given when it starts."""


class Reload:
    """Reads the configuration again each time it is asked to.

    Asked while it is at work, it begins once more when that is done, however often it was asked; a
    download is ended for it, and goes on if it is still wanted then.
    """

    def __init__(
        self,
        configuration: Configuration,
        read: Read,
        fleet: Fleet,
        apply: Apply,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Take what holds at first, and what is needed to change it.

        Args:
            read: Returns the configuration as it is now; raises `OpenLLMError`.
            apply: Makes the server go by these settings; raises `OpenLLMError` and changes nothing.
            on_progress: Called as downloads go on, from their threads.
        """
        self._now = configuration
        self._read = read
        self._fleet = fleet
        self._apply = apply
        self._on_progress = on_progress
        self._keys = _key_file(configuration.server)
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Have the configuration read again; from the event loop's thread."""
        self._asked.set()

    async def run(self) -> None:
        """Do what is asked, for ever; begin when all models have been started."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self._reload()
            except Exception:
                logger.exception("reading the configuration again failed")

    async def _reload(self) -> None:
        before = self._now
        try:
            wanted, keys = await aside(self._adopted)
        except OpenLLMError as error:
            logger.error("the configuration was not taken, nothing has changed: %s", error.message)
            return
        changes = _changes(before.server, wanted.server)
        if keys != self._keys and "api_key_file" not in changes:
            changes.append(f"keys in {str(wanted.server.api_key_file)!r}")
        self._now, self._keys = wanted._replace(entries=before.entries), keys
        try:
            changes += await self._replace(wanted)
        except OpenLLMError as error:
            reason = blame(error, wanted.settings)
            logger.error("the models stay as they were: %s", reason)
        logger.info("configuration read again, changed: %s", "; ".join(changes) or "nothing")

    def _adopted(self) -> tuple[Configuration, bytes]:
        """Read and check everything, then let the server go by it; returns what holds from then on.

        Raises:
            OpenLLMError: Something is wrong; nothing was changed.
        """
        now = self._now.server
        with undone_on_failure():  # Reading sets the folder of models.
            wanted = self._read()
            check(wanted)
            new = {name: getattr(wanted.server, name) for name in _in_place(now)}
            server = now.model_copy(update=new)
            keys = _key_file(server)
            self._apply(server, wanted.download)
        for name, (value, origin, _) in wanted.settings.items():
            if value != getattr(server, name):
                where = flag(name) if origin == "default" else origin
                logger.warning("%s: it takes a new start to change this", where)
        if server.log_level != now.log_level:
            logging.getLogger("openllm").setLevel(server.log_level.upper())
        if now.keyed and not server.keyed:
            warn_if_open(server)
        return wanted._replace(server=server), keys

    async def _replace(self, wanted: Configuration) -> list[str]:
        models = await self._files(wanted)
        if models is None:
            return ["no model yet, as the configuration is to be read once more"]
        replaced = await self._fleet.replace(
            models,
            {entry.name: entry.config for entry in wanted.entries},
            grace=wanted.server.timeout_graceful_shutdown,
        )
        self._now = wanted
        return [*_told(replaced)]

    async def _files(self, wanted: Configuration) -> tuple[LocalModel, ...] | None:
        """Return the models, downloaded if need be; None if the next reading is asked for first."""
        cancelled = threading.Event()
        work = asyncio.ensure_future(aside(lambda: self._fetched(wanted, cancelled)))
        again = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait((work, again), return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        finally:
            cancelled.set()
            again.cancel()
            work.cancel()

    def _fetched(self, wanted: Configuration, cancelled: threading.Event) -> tuple[LocalModel, ...]:
        before = {entry.name for entry in self._now.entries}
        new = [entry for entry in wanted.entries if entry.name not in before]
        with asked_once():
            check_ahead(wanted)
            if before <= {entry.name for entry in wanted.entries}:  # No memory will become free.
                check_memory_ahead(new)
            return fetch(wanted, self._on_progress, cancelled)


def _key_file(settings: ServerSettings) -> bytes:
    """Return a digest of the keys' file, as its content can change under its name."""
    file = settings.api_key_file
    return sha256(content_of(file)).digest() if file else b""


def _in_place(settings: ServerSettings) -> frozenset[str]:
    return IN_PLACE - NOT_BY_GRPC if settings.grpc else IN_PLACE


def _changes(before: ServerSettings, now: ServerSettings) -> list[str]:
    """Return the names of the settings that differ; values may be secret."""
    return [name for name in sorted(IN_PLACE) if getattr(before, name) != getattr(now, name)]


def _told(replaced: Replaced) -> Iterator[str]:
    failed = [name for name in replaced.failures if name not in replaced.restored]
    for what, names in (
        ("added", replaced.added),
        ("removed", replaced.removed),
        ("restarted", replaced.restarted),
        ("other request defaults for", replaced.defaults),
        ("could not be loaded:", failed),
        ("could not be loaded like this and goes on as it was:", replaced.restored),
    ):
        if names:
            yield f"{what} {', '.join(names)}"
