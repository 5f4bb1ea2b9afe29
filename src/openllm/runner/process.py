"""Starting and ending the child process of a runner. Knows nothing of what flows on its socket.

Each process has a private folder for temporary files, which goes with it; what a killed parent left
behind is swept by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil

from openllm.config.model import ModelConfig
from openllm.config.names import PREFIX
from openllm.llm.preprompt import preprompt_text
from openllm.runner.last_words import LastWords
from openllm.runner.wire import Launch
from openllm.types import LocalModel

FOLDER_PREFIX = "openllm-"
MAX_BASE = 40  # A socket's path has 103 bytes on macOS; folder and name of ours take up to 60.

_STATISTICS = Path("/proc/vmstat")
_HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class RunnerProcess:
    """A worker process at the other end of a pair of sockets, which nobody else can connect to."""

    def __init__(self, model: LocalModel, config: ModelConfig) -> None:
        self._launch = Launch(
            model=model,
            config=config.model_dump(mode="json", exclude_defaults=True),
            preprompt=preprompt_text(config.defaults.prompt),
            log_level=logging.getLevelName(logging.getLogger("openllm").getEffectiveLevel()),
        )
        self._folder = private_folder()
        self._process: asyncio.subprocess.Process | None = None
        self._words: LastWords | None = None
        self._swept = False
        self._memory_kills = 0

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the runner process has not been started")
        return self._process.pid

    async def start(self) -> socket.socket:
        """Start the child, which loads the model at once; return our end of the pair.

        Raises:
            OSError: There can be no more processes or files.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = await self._spawn(theirs.fileno())
        except BaseException:
            ours.close()
            raise
        if self._process.stdin is None:
            raise RuntimeError("the runner process has no standard input")
        self._process.stdin.write(msgspec.json.encode(self._launch) + b"\n")
        return ours

    async def _spawn(self, connection: int) -> asyncio.subprocess.Process:
        self._words = LastWords()
        self._memory_kills = memory_kills()
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "openllm.runner.worker",
                str(connection),
                stdin=asyncio.subprocess.PIPE,
                stderr=self._words.writing,
                pass_fds=[connection],
                env={**_environment(os.environ), "TMPDIR": str(self._folder)},
                start_new_session=True,  # A Ctrl-C in the terminal reaches the parent alone.
            )
        finally:
            os.close(self._words.writing)

    async def exit_reason(self, grace: float) -> str:
        """Wait for the end of the process, kill it after `grace` seconds; say how it ended."""
        if self._process is None:
            return "was not started"
        if not await _ended(self._process, grace):
            return "no longer answered and was killed"
        code = await self._process.wait()
        if code >= 0:
            return f"exited with status {code}"
        name = _signal_name(-code)
        if name == "SIGKILL" and memory_kills() > self._memory_kills:
            name += "; memory had run out"
        return f"was killed by signal {-code} ({name})"

    async def last_line(self) -> str:
        """Return what the process, which has ended, wrote last to its standard error."""
        if self._words is None:
            return ""
        await asyncio.to_thread(self._words.drain)
        return self._words.line

    async def stop(self, grace: float = 5.0) -> None:
        """Ask the process to end, kill it after `grace` seconds; returns when it is gone.

        What it had started goes with it.
        """
        process = self._process
        try:
            if process is not None:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.terminate()
                    await _ended(process, grace)
                if not self._swept:
                    self._swept = True  # Only now: some day its number is another process's.
                    _kill_group(process.pid)
            if self._words is not None:
                await asyncio.to_thread(self._words.drain)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return what an engine may see: its settings come another way, and secrets are not for it."""
    return {
        name: value
        for name, value in variables.items()
        if name not in _HUB_TOKENS and not name.startswith(PREFIX)
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # One of those for real-time programs.
        return "without a name"


async def _ended(process: asyncio.subprocess.Process, grace: float) -> bool:
    """Wait for the end of a process; whether it came within `grace` seconds, without killing it."""
    try:
        await asyncio.wait_for(process.wait(), grace)
    except asyncio.TimeoutError:
        _kill_group(process.pid)
        await process.wait()
        return False
    return True


def _kill_group(leader: int) -> None:
    """Kill the processes that a runner has started, and itself; they are a group of their own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def memory_kills() -> int:
    """Return how many processes the system has killed for want of memory; 0 if it does not tell."""
    try:
        found = re.search(r"^oom_kill (\d+)$", _STATISTICS.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def private_folder() -> Path:
    """Make a folder that only this user can enter, with a path short enough for a socket."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > MAX_BASE:
        base = Path("/tmp")  # noqa: S108 (mkdtemp makes the folder itself private)
    for left in base.glob(f"{FOLDER_PREFIX}*"):
        owner = left.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=base))
