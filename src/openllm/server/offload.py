"""Work that takes long leaves the event loop, where it would hold up the streams of others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INLINE_BYTES = 32 * 1024
"""What is parsed or encoded in less time than a thread is worth."""


async def offload(size: int, work: Callable[[], T]) -> T:
    """Return `work()`, done in a thread if it is about more than `INLINE_BYTES` bytes."""
    if size <= INLINE_BYTES:
        return work()
    return await asyncio.to_thread(work)
