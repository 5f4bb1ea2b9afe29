"""What of ours runs in the processes that vLLM starts: they end with us, their log comes to us.

Those it spawns import this module first, as their main module (`vllm_load.spawning_with`). All
configure their logging from a file that we write (`vllm_logs.LogPipe`) and that names the handler
here. Nothing heavy may be imported.
"""

from __future__ import annotations

import ctypes
import json
import logging
import multiprocessing
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
MAX_BYTES = 4096  # A line of at most so many bytes (PIPE_BUF) is written whole.


class ChildHandler(logging.Handler):
    """Writes each record as a line of JSON into a named pipe; drops it if nobody reads.

    Made in a process that vLLM started, be it by fork, it binds this process to its parent's life.
    """

    def __init__(self, pipe: str, owner: int) -> None:
        """Take the pipe's path and the id of the process that reads it."""
        super().__init__()
        self._path = pipe
        self._pipe: int | None = None
        if os.getpid() != owner:
            end_with_parent()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._pipe is None:
                self._pipe = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self._pipe, encode(record))
        except OSError:  # The reader is gone, or busy for so long that the pipe is full.
            pass

    def close(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
        super().close()


def encode(record: logging.LogRecord) -> bytes:
    """Return a record as a line: its level, its message and, if it has one, its exception."""
    error = record.exc_info[1] if record.exc_info else None
    line = {
        "level": record.levelno,
        "message": record.getMessage()[:1000],
        "error": f"{type(error).__name__}: {error}"[:1000] if error is not None else None,
    }
    data = json.dumps(line).encode()
    if len(data) >= MAX_BYTES:  # Characters that are long when escaped.
        line["message"], line["error"] = str(line["message"])[:200], None
        data = json.dumps(line).encode()
    return data + b"\n"


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; end now if it has ended already.

    Strictly, the signal comes when the thread ends that started this process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()  # Not known yet where this is the main module.
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)


def hush() -> None:
    """Drop what vLLM logs while it is imported, before its logging is configured."""
    logging.getLogger("vllm").setLevel(logging.ERROR)


if __name__ == "__mp_main__":
    end_with_parent()
    hush()
