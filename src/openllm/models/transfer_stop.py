"""How transfers end before their time: at once, whatever their threads wait for."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, TypeVar

from openllm.errors import ModelFetchError

Result = TypeVar("Result")

_WAKE = 0.1
_GRACE = 0.5
"""Seconds that a thread has to end in once its connections are cut."""


class Halt:
    """The end of one transfer, for all its threads and connections."""

    def __init__(self) -> None:
        self._called = threading.Event()
        self._streams: list[Any] = []

    def call(self) -> None:
        """End what the threads wait for: nothing else wakes one that reads from a socket."""
        self._called.set()
        for stream in tuple(self._streams):
            _cut(stream)

    def pause(self, seconds: float) -> None:
        """Sleep; raises `ModelFetchError` if the transfer is given up meanwhile, or was before."""
        if self._called.wait(seconds) if seconds > 0 else self._called.is_set():
            raise stopped()

    def watch(self, event: str, info: dict[str, Any]) -> None:
        """Get to know the connections, as the HTTP library's "trace" extension."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._streams.append(info["return_value"])
            if self._called.is_set():  # It was on its way when the others were cut.
                _cut(info["return_value"])


def stopped() -> ModelFetchError:
    """Return the error of a download that somebody wanted to end."""
    return ModelFetchError("the download was stopped; what has arrived is kept")


def in_thread(work: Callable[[], Result]) -> Future[Result]:
    """Run `work` in a thread of its own, for which the end of the process does not wait."""
    done: Future[Result] = Future()
    done.set_running_or_notify_cancel()  # Nobody can cancel it: the thread goes on.

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="openllm-aside", daemon=True).start()
    return done


def stoppable(
    work: Callable[[], Result], halt: Halt, cancelled: threading.Event | None = None
) -> Result:
    """Return what `work` returns, on a thread of its own.

    When `cancelled` is set, or Ctrl-C pressed, this calls `halt` and raises within a second, even
    while the thread is in a system call that nothing ends, such as looking up a name.

    Raises:
        ModelFetchError: `cancelled` was set.
        BaseException: What `work` raises.
    """
    done = in_thread(work)
    try:
        while True:
            ended = wait((done,), _WAKE).done
            if cancelled is not None and cancelled.is_set():
                raise stopped()
            if ended:
                return done.result()
    except BaseException:
        halt.call()
        wait((done,), _GRACE)
        raise


def _cut(stream: Any) -> None:
    connection = stream.get_extra_info("socket")
    with suppress(OSError):
        # Not the method of a TLS socket, which takes its state from under the reader.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
