"""Downloads that several clients follow: one for each model, ended when nobody follows it.

Knows nothing of HTTP, nor of how a model is fetched.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Hashable
from typing import TYPE_CHECKING

from openllm.errors import OverloadedError
from openllm.server.pull_events import Pace

if TYPE_CHECKING:
    from openllm.models.pull import Progress
    from openllm.types import LocalModel

MAX_PULLS = 4
"""Models downloaded at once for clients; one more is refused."""

Fetch = Callable[["Callable[[Progress], None]", threading.Event], "LocalModel"]
"""Blocks until the model is there; reports progress from any thread, ends soon once cancelled."""


class Pulls:
    """The downloads that go on. All methods belong to the event loop's thread."""

    def __init__(self) -> None:
        self._pulls: dict[Hashable, Pull] = {}

    def join(self, key: Hashable, fetch: Fetch) -> Pull:
        """Return the download of the model that `key` stands for; `fetch` begins it if none does.

        Raises:
            OverloadedError: Too many other models are being downloaded.
        """
        pull = self._pulls.get(key)
        if pull is None:
            if len(self._pulls) >= MAX_PULLS:
                raise OverloadedError(
                    f"{MAX_PULLS} other models are being downloaded; try again when one is done",
                    retry_after=30,
                )
            pull = self._pulls[key] = Pull(fetch, lambda: self._pulls.pop(key, None))
        return pull


class Pull:
    """One download and those who follow it."""

    def __init__(self, fetch: Fetch, on_end: Callable[[], object]) -> None:
        self._fetch = fetch
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._pace = Pace()
        self._cancelled = threading.Event()
        self._latest: Progress | None = None
        self._followers: list[_Follower] = []
        self._ended = False
        self._model: LocalModel | None = None
        self._error: BaseException | None = None
        # Not of the loop's pool, which everybody else needs and which the exit would wait for.
        threading.Thread(target=self._work, name="pull", daemon=True).start()

    async def follow(self) -> AsyncGenerator[Progress, None]:
        """Yield how far it is until it has ended; a slow follower is told the newest only.

        When the last follower leaves before that, the download is cancelled.
        """
        follower = _Follower(self._latest)
        self._followers.append(follower)
        try:
            while True:
                while (unread := follower.unread) is not None:
                    follower.unread = None
                    yield unread
                if self._ended:
                    return
                follower.wake.clear()
                await follower.wake.wait()
        finally:
            self._followers.remove(follower)
            if not self._followers and not self._ended:
                self._cancelled.set()
                self._on_end()

    def result(self) -> LocalModel:
        """Return the model, once `follow` has ended; raises what went wrong."""
        if self._error is not None:
            raise self._error
        if self._model is None:
            raise RuntimeError("the download has not ended")
        return self._model

    def _work(self) -> None:
        try:
            self._model = self._fetch(self._report, self._cancelled)
        except BaseException as error:
            self._error = error
        self._call(self._end)

    def _report(self, progress: Progress) -> None:
        if self._pace.admits(progress):
            self._call(lambda: self._publish(progress))

    def _call(self, step: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(step)
        except RuntimeError:  # The loop is closed: the server has ended.
            self._cancelled.set()

    def _publish(self, progress: Progress) -> None:
        self._latest = progress
        for follower in self._followers:
            follower.unread = progress
            follower.wake.set()

    def _end(self) -> None:
        self._ended = True
        if not self._cancelled.is_set():
            self._on_end()
        for follower in self._followers:
            follower.wake.set()


class _Follower:
    """What one client has not been told yet."""

    def __init__(self, unread: Progress | None) -> None:
        self.unread = unread
        self.wake = asyncio.Event()
