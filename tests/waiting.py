"""Waiting for what happens in another task, thread or process, however slow the machine is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SECONDS = 20.0
"""After which something counts as not happening: many, as a loaded machine may stand still."""


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until the condition holds; fails if it does not in so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(0.005)


def wait_until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Do the same without an event loop."""
    assert happens(condition, seconds), f"not within {seconds:g} s"


def happens(condition: Callable[[], object], seconds: float = SECONDS) -> bool:
    """Whether the condition holds within so many seconds; waits until it does."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(holds)
