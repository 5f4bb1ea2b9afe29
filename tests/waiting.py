"""Waiting for what happens in another task, thread or process, however slow the machine is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

SECONDS = 20.0
"""After which something counts as not happening: many, as a loaded machine is slow."""

_PAUSE = 0.01


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until the condition holds; fails if it does not in so many seconds."""
    for left in _looks(condition, seconds):
        assert left, f"not within {seconds:g} s"
        await asyncio.sleep(_PAUSE)


def wait_until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Do the same without an event loop."""
    assert happens(condition, seconds), f"not within {seconds:g} s"


def happens(condition: Callable[[], object], seconds: float = SECONDS) -> bool:
    """Whether the condition holds within so many seconds; waits until it does."""
    for left in _looks(condition, seconds):
        if not left:
            return False
        time.sleep(_PAUSE)
    return True


def _looks(condition: Callable[[], object], seconds: float) -> Iterator[bool]:
    """Look again and again; yield whether time is left, until the condition holds.

    Between two looks a pause is counted, however long it took: a machine that stood still, and
    this process with it, has given nobody the time.
    """
    while True:
        begun = time.monotonic()
        if condition():
            return
        seconds -= time.monotonic() - begun + _PAUSE
        yield seconds > 0
