"""When a failed request is sent again, and how long to wait before."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

from open_llm_client.errors import ClientError, TimedOut

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0
LONGEST_REQUESTED_PAUSE = 60.0


class Retries:
    """Counts the attempts of one request. A stream that has begun is never retried."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0

    def pause_after(self, error: ClientError) -> float:
        """Return the seconds to wait before the next attempt: what the server asked for, else
        exponential backoff with full jitter.

        Raises:
            ClientError: `error` itself, when trying again is pointless, unsafe or used up.
        """
        asked = error.retry_after
        too_long = asked is not None and asked > LONGEST_REQUESTED_PAUSE
        if not error.retryable or too_long or self._used >= self._limit:
            raise error
        ceiling = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self._used)
        self._used += 1
        jittered = random.uniform(0, ceiling)  # noqa: S311 - no secret
        return jittered if asked is None else asked


class Readiness:
    """Paces the wait for a server that is starting."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._pause = 0.05

    def pause(self) -> float:
        """Return the seconds to wait before asking again.

        Raises:
            TimedOut: The time is up.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimedOut(f"{self._url} is not ready after {self._timeout:g} s: see its log")
        self._pause = min(1.0, self._pause * 1.5)
        return min(left, self._pause)


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """Read retry-after-ms (milliseconds) or Retry-After (seconds, or an HTTP date).

    A date counts from the server's own `Date`, so that clocks need not agree.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    return seconds if seconds is not None or value is None else _seconds_until(value, headers)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _seconds_until(date: str, headers: Mapping[str, str]) -> float | None:
    until = _timestamp(date)
    if until is None:
        return None
    now = _timestamp(headers.get("date", ""))
    return max(0.0, until - (time.time() if now is None else now))


def _timestamp(http_date: str) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(http_date).timestamp()
    except ValueError:
        return None
