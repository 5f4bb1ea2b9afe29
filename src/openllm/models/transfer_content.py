"""What is on the disk of a file that is being downloaded, and the hashes of it."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from openllm.models.hub import RemoteFile
    from openllm.models.transfer_stop import Halt

_BLOCK = 1 << 20
_WAKE = 0.1
_NO_MORE = -1


def write_at(descriptor: int, piece: bytes, offset: int) -> None:
    """Write all of `piece` at `offset`, wherever the file's position is."""
    written = 0
    while written < len(piece):
        written += os.pwrite(descriptor, piece[written:], offset + written)


class _Digest(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


class Content:
    """What is on the disk of one file, and the hashes of it, computed beside the network's work."""

    def __init__(self, descriptor: int, remote: RemoteFile) -> None:
        self._descriptor = descriptor
        self._remote = remote
        size = os.fstat(descriptor).st_size
        self.offset = 0 if 0 <= remote.size < size else size
        self._hasher = _Hasher(descriptor, remote)
        self._hasher.go_on(self.offset)

    def write(self, piece: bytes) -> None:
        write_at(self._descriptor, piece, self.offset)
        self.offset += len(piece)
        self._hasher.go_on(self.offset)

    def go_to(self, offset: int) -> None:
        """Begin anew if `offset` is not where the content ends."""
        if offset == self.offset:
            return
        self._hasher.close()
        self._hasher = _Hasher(self._descriptor, self._remote)
        self.offset = 0

    def is_right(self, halt: Halt) -> bool:
        """Whether it is what was announced; raises `ModelFetchError` once `halt` is called.

        Raises:
            OSError: It cannot be read.
        """
        if os.fstat(self._descriptor).st_size != self.offset:  # Else it would look changed.
            os.ftruncate(self._descriptor, self.offset)
        self._hasher.finish(halt)
        remote = self._remote
        if self._hasher.offset != self.offset or 0 <= remote.size != self.offset:
            return False
        if remote.sha256:
            return self.sha256 == remote.sha256
        return not remote.blob or self._hasher.blob == remote.blob

    def found(self) -> str:
        return f"{self.offset} bytes, sha256 {self.sha256}"

    @property
    def sha256(self) -> str:
        """Of everything written; only after `is_right`."""
        return self._hasher.sha256

    def close(self) -> None:
        self._hasher.close()


class _Hasher:
    """Hashes what is in the file, block by block behind the writer, on a thread of its own.

    It reads the file again, from the system's cache: a thread that is handed every piece as it
    comes costs the writer more in turns of the interpreter than the reading costs here.
    """

    def __init__(self, descriptor: int, remote: RemoteFile) -> None:
        self._digests: list[_Digest] = [hashlib.sha256()]
        if remote.blob and remote.size >= 0:
            # Git's own name for content; it guards against damage here, not against forgery.
            blob = hashlib.sha1(b"blob %d\0" % remote.size, usedforsecurity=False)
            self._digests.append(blob)
        self._descriptor = descriptor
        self.offset = 0
        """Bytes hashed."""
        self._asked = self._end = 0
        self._given_up = False
        self._error: OSError | None = None
        self._ends: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="openllm-hash", daemon=True)
        self._thread.start()

    def go_on(self, end: int) -> None:
        """Hash what lies before `end`, some time before `finish` returns."""
        if end - self._asked >= _BLOCK:
            self._ends.put(end)
            self._asked = end
        self._end = end

    def finish(self, halt: Halt) -> None:
        """Hash the rest; returns when all is done, or raises once `halt` is called.

        Raises:
            OSError: The file cannot be read.
        """
        self._ends.put(self._end)
        self._ends.put(_NO_MORE)
        while self._thread.is_alive():
            halt.pause(0)
            self._thread.join(_WAKE)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End; what is not hashed yet stays so."""
        self._given_up = True
        self._ends.put(_NO_MORE)
        self._thread.join()

    @property
    def sha256(self) -> str:
        return self._digests[0].hexdigest()

    @property
    def blob(self) -> str:
        return self._digests[-1].hexdigest()

    def _run(self) -> None:
        try:
            self._hash()
        except OSError as error:
            self._error = error

    def _hash(self) -> None:
        block = memoryview(bytearray(_BLOCK))
        while (end := self._ends.get()) != _NO_MORE:
            while self.offset < end and not self._given_up:
                got = os.preadv(self._descriptor, [block[: end - self.offset]], self.offset)
                if not got:
                    return
                for digest in self._digests:
                    digest.update(block[:got])
                self.offset += got
