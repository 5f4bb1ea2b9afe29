"""Starting and ending the child process of a runner. Knows nothing of what flows on its socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

import msgspec

from openllm.config.model import ModelConfig
from openllm.runner.wire import Launch
from openllm.types import LocalModel

logger = logging.getLogger("openllm.runner")


class RunnerProcess:
    """A worker process and the address it can be reached at until `forget_address`."""

    def __init__(self, model: LocalModel, config: ModelConfig) -> None:
        self._launch = Launch(
            model=model,
            config=config.model_dump(mode="json", exclude_defaults=True),
            log_level=logging.getLevelName(logging.getLogger("openllm").getEffectiveLevel()),
        )
        self._folder = Path(tempfile.mkdtemp(prefix="openllm-"))  # mkdtemp makes it 0700.
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
                start_new_session=True,  # A Ctrl-C in the terminal reaches the parent alone.
            )
        if self._process.stdin is None:
            raise RuntimeError("the runner process has no standard input")
        self._process.stdin.write(msgspec.json.encode(self._launch) + b"\n")

    def forget_address(self) -> None:
        """Remove the socket's path: connected ends live on, and nothing is left to find."""
        shutil.rmtree(self._folder, ignore_errors=True)

    async def exit_reason(self) -> str:
        """Wait for the end of the process and say how it ended."""
        if self._process is None:
            return "was not started"
        code = await self._process.wait()
        if code >= 0:
            return f"exited with status {code}"
        with contextlib.suppress(ValueError):
            return f"was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"was killed by signal {-code}"

    async def stop(self, grace: float = 5.0) -> None:
        """Ask the process to end, then kill it; returns when it is gone."""
        self.forget_address()
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), grace)
        except asyncio.TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
