"""How transfers wait: between attempts, and to stay within a rate."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from openllm.config.download import DownloadOptions
from openllm.errors import ModelFetchError

Result = TypeVar("Result")

MAX_WAIT = 60.0
_FIRST_WAIT = 0.25


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


def retried(
    attempt: Callable[[], Result],
    options: DownloadOptions,
    *,
    pause: Callable[[float], object],
    brought: Callable[[], bool] = lambda: False,
) -> Result:
    """Return what `attempt` returns, tried again after a `TransientError`.

    Args:
        attempt: The work.
        options: How often it may fail in a row.
        pause: Waits; raises to give up.
        brought: Whether the last attempt got further, so that its failure does not count.

    Raises:
        ModelFetchError: It failed too often; the last reason is in the message.
    """
    failures = 0
    while True:
        try:
            return attempt()
        except TransientError as error:  # noqa: PERF203 - a request costs more
            failures = 0 if brought() else failures + 1
            if failures > options.download_retries:
                raise ModelFetchError(
                    f"{error}; given up after {failures} attempts that brought nothing. What has"
                    " arrived is kept: run the same command to go on"
                ) from error
            pause(_wait(failures, error.wait))


def _wait(failures: int, asked: float | None) -> float:
    longest = min(_FIRST_WAIT * 2**failures, MAX_WAIT / 4)
    jittered = random.uniform(longest / 2, longest)  # noqa: S311 - spreads clients, no secret
    return min(max(jittered, asked or 0.0), MAX_WAIT)


class Pace:
    """Keeps all the threads of a download together within so many bytes a second."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._free_at = monotonic()

    def delay(self, count: int) -> float:
        """Book `count` bytes; return the seconds to wait before more are read."""
        if self._rate is None:
            return 0.0
        now = monotonic()
        # Two threads may book at the same moment and one booking be lost: a little too fast.
        self._free_at = max(self._free_at, now) + count / self._rate
        return self._free_at - now
