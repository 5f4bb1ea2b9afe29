"""Work that blocks for long, kept off an event loop and out of the way of the process's end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def aside(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own, for which the end of the process does not wait.

    It does for the threads of `asyncio.to_thread`. Cancelling this does not end the work.
    """
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="openllm-aside", daemon=True).start()
    return await asyncio.wrap_future(done)
