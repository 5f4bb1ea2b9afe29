"""llama.cpp's own HTTP listener, for what its binding lacks: tokenizer, model facts, liveness.

The listener is a Unix socket in a directory that only this user can enter, and asks for a secret
that exists only in this process. On Linux it loses its name once it listens: what is left is a file
descriptor, which also goes when the process is killed. It closes each connection after its reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from typing import Any

import msgspec

from openllm.errors import EngineError

MAX_SOCKET_PATH = 100  # The kernel takes 107 bytes, on macOS 103.


class NativeSocket:
    """The way to one llama.cpp listener.

    Attributes:
        path: Where llama.cpp shall listen, not existing before; then the way to it.
        secret: The API key it shall ask for.
    """

    def __init__(self) -> None:
        prefix = f"openllm-{os.getpid()}-"  # As runners name theirs: swept by them.
        self._folder = tempfile.mkdtemp(prefix=prefix)  # mode 0700
        if len(self._folder) > MAX_SOCKET_PATH - len("/llama.sock"):
            os.rmdir(self._folder)
            self._folder = tempfile.mkdtemp(prefix=prefix, dir="/tmp")
        self.path = os.path.join(self._folder, "llama.sock")
        self.secret = secrets.token_hex(32)
        self._descriptor: int | None = None

    def seal(self) -> None:
        """Take the socket from everybody else, once llama.cpp listens."""
        os.chmod(self.path, 0o600)
        if not (sys.platform == "linux" and os.path.isdir("/proc/self/fd")):
            return
        self._descriptor = os.open(self.path, os.O_PATH | os.O_CLOEXEC)
        shutil.rmtree(self._folder, ignore_errors=True)
        self.path = f"/proc/self/fd/{self._descriptor}"

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    async def get(self, target: str) -> Any:
        return await self._call("GET", target, b"")

    async def post(self, target: str, body: bytes) -> Any:
        return await self._call("POST", target, body)

    async def _call(self, method: str, target: str, body: bytes) -> Any:
        """Return the decoded JSON of a reply; raises `EngineError` if it is no success."""
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Authorization: Bearer {self.secret}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            reply = await self._exchange(head.encode() + body)
        except OSError as error:
            raise EngineError(f"llama.cpp does not answer: {error}") from error
        status, _, rest = reply.partition(b"\r\n")
        if status.split(b" ", 2)[1:2] != [b"200"]:
            raise EngineError(f"llama.cpp refused {target} with {status.decode('latin-1')!r}")
        try:
            return msgspec.json.decode(rest.partition(b"\r\n\r\n")[2])
        except msgspec.DecodeError as error:
            raise EngineError(f"llama.cpp broke off its answer to {target}: {error}") from error

    async def _exchange(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self.path)
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
