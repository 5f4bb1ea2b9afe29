"""How transfers wait: between attempts, and to stay within a rate."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from openllm.config.download import DownloadOptions
from openllm.errors import ModelFetchError

Result = TypeVar("Result")

logger = logging.getLogger("openllm")

MAX_WAIT = 60.0
_FIRST_WAIT = 0.25
UNKNOWN_SECONDS = 8.0
"""How long a server that never answered is tried, unless the user says how often."""


class TransientError(Exception):
    """Something went wrong that may go right the next time.

    Attributes:
        wait: Seconds the server asked for, if it did.
        status: Of its answer, 0 if there was none.
    """

    def __init__(self, message: str, wait: float | None = None, status: int = 0) -> None:
        super().__init__(message)
        self.wait = wait
        self.status = status


class UnreachableError(TransientError):
    """No connection could be made.

    Attributes:
        host: Of the server, with its port if the address has one.
        known: Whether this process got an answer of that server before.
        hint: What else to do about it.
    """

    def __init__(self, host: str, reason: str, hint: str, *, known: bool) -> None:
        super().__init__(f"{host} cannot be reached ({reason})")
        self.host = host
        self.known = known
        self.hint = hint


class Retries:
    """How one download tries again what failed; shared by its threads."""

    def __init__(self, options: DownloadOptions, pause: Callable[[float], object]) -> None:
        """Take how often work may fail in a row, and what waits; `pause` raises to give up."""
        self._options = options
        self._pause = pause
        self._away: set[str] = set()
        self._lock = threading.Lock()

    def run(
        self, attempt: Callable[[], Result], brought: Callable[[], bool] | None = None
    ) -> Result:
        """Return what `attempt` returns, tried again after a `TransientError`.

        A server that never answered is given up after `UNKNOWN_SECONDS`: its address may be wrong.
        Whoever sets `download_retries` gets as many.

        Args:
            attempt: The work.
            brought: Whether the last attempt got further, so that its failure does not count; None
                where nothing that arrives is kept.

        Raises:
            ModelFetchError: It failed too often; the last reason is in the message.
        """
        failures, began = 0, 0.0
        while True:
            try:
                return attempt()
            except TransientError as error:  # noqa: PERF203 - a request costs more
                failures = 0 if brought and brought() else failures + 1
                wait = _wait(failures, error.wait)
                if failures <= 1:
                    began = monotonic()
                late = failures > 1 and monotonic() + wait - began > UNKNOWN_SECONDS
                hopeless = late and _is_hopeless(error, self._options)
                if failures > self._options.download_retries or hopeless:
                    raise _given_up(error, failures, kept=brought is not None) from error
                self._tell(error)
                self._pause(wait)

    def reached(self, host: str) -> None:
        """Hear that `host` has answered: when it cannot be reached again, that is told again."""
        with self._lock:
            self._away.discard(host)

    def _tell(self, error: TransientError) -> None:
        if not isinstance(error, UnreachableError):
            return
        with self._lock:
            news = error.host not in self._away
            self._away.add(error.host)
        if news:
            logger.warning("cannot reach %s, trying again", error.host)


def _is_hopeless(error: TransientError, options: DownloadOptions) -> bool:
    asked = "download_retries" in options.model_fields_set
    return isinstance(error, UnreachableError) and not error.known and not asked


def _given_up(error: TransientError, failures: int, *, kept: bool) -> ModelFetchError:
    attempts = "1 attempt" if failures == 1 else f"{failures} attempts"
    if isinstance(error, UnreachableError) and not error.known:
        rest = ". What has arrived is kept" if kept else ""
        return ModelFetchError(f"{error}; given up after {attempts}: {error.hint}{rest}")
    if not kept:
        return ModelFetchError(f"{error}; given up after {attempts}, try again later")
    return ModelFetchError(
        f"{error}; given up after {attempts} that brought nothing. What has arrived is kept: run"
        " the same command to go on"
    )


def _wait(failures: int, asked: float | None) -> float:
    longest = min(_FIRST_WAIT * 2**failures, MAX_WAIT / 4)
    jittered = random.uniform(longest / 2, longest)  # noqa: S311 - spreads clients, no secret
    return min(max(jittered, asked or 0.0), MAX_WAIT)


class Pace:
    """Keeps a download within so many bytes a second, together with all others of this process.

    A byte takes its time from all that have a limit; two with the same limit get half of it each.
    """

    _lock = threading.Lock()
    _free_at = 0.0

    def __init__(self, rate: int | None) -> None:
        self._rate = rate

    def delay(self, count: int) -> float:
        """Book `count` bytes; return the seconds to wait before more are read."""
        if self._rate is None:
            return 0.0
        with Pace._lock:
            now = monotonic()
            Pace._free_at = max(Pace._free_at, now) + count / self._rate
            return Pace._free_at - now
