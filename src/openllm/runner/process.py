"""Starting and ending the child process of a runner. Knows nothing of what flows on its socket.

Each process has a private folder: its socket, and whatever it makes in its temporary folder. The
folder goes with it; what a killed parent left behind is swept by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil

from openllm.config.fields import PREFIX
from openllm.config.model import ModelConfig
from openllm.runner.wire import Launch
from openllm.types import LocalModel

FOLDER_PREFIX = "openllm-"
MAX_BASE = 40  # A socket's path has 103 bytes on macOS; folder and name of ours take up to 60.

_HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class RunnerProcess:
    """A worker process, and the socket it listens on until `forget_address`."""

    def __init__(self, model: LocalModel, config: ModelConfig) -> None:
        self._launch = Launch(
            model=model,
            config=config.model_dump(mode="json", exclude_defaults=True),
            log_level=logging.getLevelName(logging.getLogger("openllm").getEffectiveLevel()),
        )
        self._folder = private_folder()
        self.address = self._folder / "runner.sock"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the runner process has not been started")
        return self._process.pid

    async def start(self) -> None:
        """Start the child; it accepts connections at once and loads the model meanwhile."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.address))
            self.address.chmod(0o600)
            listener.listen(1)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "openllm.runner.worker",
                str(listener.fileno()),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=[listener.fileno()],
                env={**_environment(os.environ), "TMPDIR": str(self._folder)},
                start_new_session=True,  # A Ctrl-C in the terminal reaches the parent alone.
            )
        if self._process.stdin is None:
            raise RuntimeError("the runner process has no standard input")
        self._process.stdin.write(msgspec.json.encode(self._launch) + b"\n")

    def forget_address(self) -> None:
        """Remove the socket's path: connected ends live on, and nobody else can connect."""
        self.address.unlink(missing_ok=True)

    async def exit_reason(self, grace: float) -> str:
        """Wait for the end of the process, kill it after `grace` seconds; say how it ended."""
        if self._process is None:
            return "was not started"
        try:
            code = await asyncio.wait_for(self._process.wait(), grace)
        except asyncio.TimeoutError:
            self._process.kill()
            await self._process.wait()
            return "no longer answered and was killed"
        if code >= 0:
            return f"exited with status {code}"
        with contextlib.suppress(ValueError):
            return f"was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"was killed by signal {-code}"

    async def stop(self, grace: float = 5.0) -> None:
        """Ask the process to end, kill it after `grace` seconds; returns when it is gone."""
        process = self._process
        try:
            if process is not None and process.returncode is None:
                await _end(process, grace)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return what an engine may see: its settings come another way, and secrets are not for it."""
    return {
        name: value
        for name, value in variables.items()
        if name not in _HUB_TOKENS and not name.startswith(PREFIX)
    }


async def _end(process: asyncio.subprocess.Process, grace: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), grace)
    except asyncio.TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


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
