"""One file, from a server to the disk: resumed, hashed while it streams, checked, then named.

Bytes are written at explicit offsets into a file called by the hash of its content. Two processes
that download the same one at the same time, because a file system's locks do not hold, write the
same bytes to the same places.
"""

from __future__ import annotations

import hashlib
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from openllm.config.download import DownloadOptions
from openllm.errors import ModelFetchError
from openllm.models.transfer_http import Session, pieces
from openllm.models.transfer_retry import Pace, TransientError, retried

if TYPE_CHECKING:
    import httpx2

    from openllm.models.hub import RemoteFile

PARTS = ".parts"
_BLOCK = 1 << 20
_ENOUGH = 1 << 20
"""New bytes after which an attempt that broke off does not count as a failure."""

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Watch(msgspec.Struct):
    """What a transfer is told and tells, shared by the threads of one download.

    Attributes:
        pace: The limit of bytes a second.
        stopped: Set to give up; what has arrived is kept.
        report: Called with a file's name and the bytes of it that are there.
    """

    pace: Pace
    stopped: threading.Event
    report: Callable[[str, int], None]

    def wait(self, seconds: float) -> None:
        """Sleep; raises `ModelFetchError` if the download is given up meanwhile."""
        if self.stopped.wait(seconds) if seconds > 0 else self.stopped.is_set():
            raise ModelFetchError("the download was stopped; what has arrived is kept")


def fetch_file(session: Session, remote: RemoteFile, folder: Path, watch: Watch) -> str:
    """Bring a file into `folder` under its name and return the sha256 of its content.

    What an earlier attempt has left, of this process or another, is hashed and kept. A file whose
    content is not what was announced is discarded and fetched once more.

    Raises:
        ModelNotFoundError: The server does not have it any more.
        ModelFetchError: It cannot be had, is not what was announced, or the disk is full.
    """
    target = folder / remote.name
    target.parent.mkdir(parents=True, exist_ok=True)
    (folder / PARTS).mkdir(exist_ok=True)
    part = folder / PARTS / _key(remote)
    for last in (False, True):
        with _open(target if target.exists() else part) as descriptor:
            content = _Content(descriptor, remote)
            try:
                _complete(session, remote, content, watch)
                if content.is_right():
                    os.fsync(descriptor)
                    break
            except OSError as error:
                raise disk_error(error, folder) from error
            finally:
                content.close()
        _discard(target, part)
        if last:
            raise ModelFetchError(
                f"{remote.name} arrived twice with content that is not what the hub announced"
                f" ({content.found()}); it was discarded, try again later or another mirror"
            )
    if not target.exists():
        os.replace(part, target)
    return content.sha256


def _complete(session: Session, remote: RemoteFile, content: _Content, watch: Watch) -> None:
    watch.report(remote.name, content.offset)
    furthest = content.offset

    def attempt() -> None:
        if content.offset != remote.size:
            _attempt(session, remote, content, watch)

    def brought() -> bool:
        # Measured from the furthest so far: what has to be begun anew is no progress.
        nonlocal furthest
        if content.offset < furthest + _ENOUGH:
            return False
        furthest = content.offset
        return True

    retried(attempt, session.options, pause=watch.wait, brought=brought)


def _attempt(session: Session, remote: RemoteFile, content: _Content, watch: Watch) -> None:
    headers = {"range": f"bytes={content.offset}-"} if content.offset else {}
    try:
        with session.open(remote.url, headers) as reply:
            _check_unchanged(reply, remote)
            content.go_to(_start(reply, remote, content.offset))
            for piece in pieces(reply):
                watch.wait(watch.pace.delay(len(piece)))
                content.write(piece)
                watch.report(remote.name, content.offset)
                if 0 <= remote.size < content.offset:
                    content.go_to(0)
                    raise ModelFetchError(
                        f"{remote.name} is longer than the {remote.size} bytes that were announced;"
                        " it was discarded"
                    )
            expected = reply.headers.get("content-length", "")
    except TransientError as error:
        if "HTTP 416" in str(error):  # What is here is no beginning of what is there.
            content.go_to(0)
        raise
    if remote.size < 0 and expected.isdigit():
        return
    if 0 <= content.offset < remote.size:
        raise TransientError(f"{remote.name}: {content.offset} of {remote.size} bytes arrived")


def _start(reply: httpx2.Response, remote: RemoteFile, wanted: int) -> int:
    """Return the offset of the body's first byte."""
    if reply.status_code != 206:
        return 0
    found = _RANGE.fullmatch(reply.headers.get("content-range", ""))
    if found is None or int(found[1]) != wanted:
        raise TransientError(f"{remote.name}: the server sent another part than was asked for")
    if remote.size >= 0 and found[2] not in ("*", str(remote.size)):
        raise TransientError(f"{remote.name}: the server says it has {found[2]} bytes now")
    return wanted


def _check_unchanged(reply: httpx2.Response, remote: RemoteFile) -> None:
    etag = reply.headers.get("etag", "")
    if remote.etag and etag and etag != remote.etag:
        raise ModelFetchError(
            f"{remote.name} changed on the server during the download; run the same command again"
        )


class _Content:
    """What is on the disk of one file, and the hashes of it, computed beside the network's work."""

    def __init__(self, descriptor: int, remote: RemoteFile) -> None:
        self._descriptor = descriptor
        self._remote = remote
        size = os.fstat(descriptor).st_size
        self.offset = 0 if 0 <= remote.size < size else size
        self._hasher = _Hasher(descriptor, remote)
        self._hasher.go_on(self.offset)

    def write(self, piece: bytes) -> None:
        written = 0
        while written < len(piece):
            written += os.pwrite(self._descriptor, piece[written:], self.offset + written)
        self.offset += len(piece)
        self._hasher.go_on(self.offset)

    def go_to(self, offset: int) -> None:
        """Begin anew if `offset` is not where the content ends."""
        if offset == self.offset:
            return
        self._hasher.close()
        self._hasher = _Hasher(self._descriptor, self._remote)
        self.offset = 0

    def is_right(self) -> bool:
        os.ftruncate(self._descriptor, self.offset)
        self._hasher.close()
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
        self._ends: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="openllm-hash", daemon=True)
        self._thread.start()

    def go_on(self, end: int) -> None:
        """Hash what lies before `end`, some time before `close` returns."""
        if end - self._asked >= _BLOCK:
            self._ends.put(end)
            self._asked = end
        self._end = end

    def close(self) -> None:
        """Hash the rest; returns when all is done."""
        if self._thread.is_alive():
            self._ends.put(self._end)
            self._ends.put(-1)
            self._thread.join()

    @property
    def sha256(self) -> str:
        return self._digests[0].hexdigest()

    @property
    def blob(self) -> str:
        return self._digests[-1].hexdigest()

    def _run(self) -> None:
        block = memoryview(bytearray(_BLOCK))
        while (end := self._ends.get()) >= 0:
            while self.offset < end:
                got = os.preadv(self._descriptor, [block[: end - self.offset]], self.offset)
                if not got:
                    return
                for digest in self._digests:
                    digest.update(block[:got])
                self.offset += got


@contextmanager
def _open(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _key(remote: RemoteFile) -> str:
    """Return a name for the content, the same for every process that downloads it."""
    known = remote.sha256 or remote.blob
    named = "\0".join((remote.url, remote.etag, str(remote.size)))
    return known or hashlib.sha256(named.encode()).hexdigest()


def _discard(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def disk_error(error: OSError, folder: Path) -> ModelFetchError:
    """Return what to tell of a disk that is full or cannot be written."""
    return ModelFetchError(
        f"{folder} cannot be written: {error.strerror}; what has arrived is kept. Make room"
        " (`openllm gc`, `openllm rm`) or set BENTOML_HOME to another disk, then pull again"
    )


def read_range(url: str, start: int, length: int, options: DownloadOptions) -> bytes:
    """Return `length` bytes of the file at `url` from `start`, fewer at its end.

    Raises:
        ModelNotFoundError: There is no such file.
        ModelFetchError: The server fails, refuses, or has no parts of files to give.
    """
    home = options.endpoint if url.startswith(f"{options.endpoint}/") else url
    with Session(options, home) as session:
        return session.read_range(url, start, length)
