"""Work that blocks for long, kept off an event loop and out of the way of the process's end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from openllm.models.transfer_stop import in_thread

T = TypeVar("T")


async def aside(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own, for which the end of the process does not wait.

    It does for the threads of `asyncio.to_thread`. Cancelling this does not end the work.
    """
    return await asyncio.wrap_future(in_thread(work))
