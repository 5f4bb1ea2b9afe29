"""What vLLM's processes log, in our own log: the phases of loading, warnings, errors.

The rest is seen when our level is DEBUG.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Mapping
from typing import Any

from openllm.engines.library_errors import of_text, one_line
from openllm.engines.vllm_child import ChildHandler

logger = logging.getLogger("openllm.engines.vllm")

PHASES = {
    "Starting to load model": "loading weights",
    "Loading weights took ([0-9.]+)": "weights loaded in {} s",
    "Warming up model for the compilation": "compiling; the first time takes a minute or more",
    "Warming up done": "compiled",
    r"Dynamo bytecode transform time: ([0-9.]+)": "compiling; traced in {} s",
    r"torch.compile took ([0-9.]+)": "compiled in {} s",
    r"torch.compile and initial profiling/warmup run together took ([0-9.]+)": "compiled in {} s",
    "Graph capturing finished in ([0-9.]+)": "graphs captured in {} s",
}
"""Our words for what vLLM says of its loading."""

HARMLESS = re.compile(
    "Triton is not installed|requires Triton|found in LD_PRELOAD|SSM cache type|Enforce eager"
    "|Inductor compilation was disabled|OMP_NUM_THREADS|Compiling model again|force killing"
)
"""Warnings of what is meant to be so, or what cannot be helped."""


class LogPipe:
    """A named pipe that vLLM's processes log into, and a thread that logs what comes.

    Attributes:
        folder: A folder of its own, removed when it is closed.
        config: Path of the file that tells vLLM's logging to use the pipe.
        first_error: The first exception that was logged, as "Type: message": the root of others.
    """

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(
            prefix=f"openllm-{os.getpid()}-"
        )  # As runners name theirs: swept by them.
        path = os.path.join(self.folder, "log.pipe")
        os.mkfifo(path, 0o600)
        self._pipe = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # As a writer it never sees an end.
        self.config = os.path.join(self.folder, "logging.json")
        with open(self.config, "w") as file:
            json.dump(_logging_config(path), file)
        self.first_error: str | None = None
        self._thread = threading.Thread(target=self._read, name="vllm-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Log what has been written, then stop; safe to call twice."""
        if self._thread.is_alive():
            os.write(self._pipe, b"\n")
            self._thread.join()
            os.close(self._pipe)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self) -> None:
        rest = b""
        while True:
            *lines, rest = (rest + os.read(self._pipe, 1 << 16)).split(b"\n")
            for line in lines:
                if not line:
                    return
                self._log(json.loads(line))

    def _log(self, record: Mapping[str, Any]) -> None:
        message, error = record["message"], record["error"]
        if error is not None:
            error = of_text(error)
        if error is not None and self.first_error is None:
            self.first_error = error
        level, text = _ours(record["level"], message)
        logger.log(level, "%s%s", text, f" ({error})" if error else "")


def _ours(level: int, message: str) -> tuple[int, str]:
    """Return the level and words with which we log a message of vLLM's."""
    if level >= logging.WARNING:
        level = logging.DEBUG if HARMLESS.search(message) else level
        return level, f"vLLM: {one_line(message)}"
    for pattern, words in PHASES.items():
        if found := re.search(pattern, message):
            return logging.INFO, words.format(*found.groups())
    return logging.DEBUG, f"vLLM: {message}"


def _logging_config(pipe: str) -> dict[str, Any]:
    level = "DEBUG" if logger.isEnabledFor(logging.DEBUG) else "INFO"
    handler = {
        "()": f"{ChildHandler.__module__}.{ChildHandler.__qualname__}",
        "pipe": pipe,
        "owner": os.getpid(),
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"openllm": handler},
        "loggers": {"vllm": {"handlers": ["openllm"], "level": level, "propagate": False}},
    }
