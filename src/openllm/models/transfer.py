"""One file, from a server to the disk: resumed, hashed while it streams, checked, then named.

Bytes are written at explicit offsets into a file whose name stands for its content. Two processes
that download the same one at the same time, because a file system's locks do not hold, write the
same bytes to the same places.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from openllm.errors import ModelFetchError
from openllm.models.transfer_answer import is_other
from openllm.models.transfer_content import Content
from openllm.models.transfer_http import Session, pieces
from openllm.models.transfer_retry import Pace, TransientError

if TYPE_CHECKING:
    import httpx2

    from openllm.models.hub import RemoteFile

PARTS = ".parts"
_ENOUGH = 1 << 20
"""New bytes after which an attempt that broke off does not count as a failure."""

_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]+|\*)")


class Watch(msgspec.Struct):
    """What a transfer is told and tells, shared by the threads of one download.

    Attributes:
        pace: The limit of bytes a second.
        report: Called with a file's name and the bytes of it that are there.
        check_room: Called with the bytes there of a file whose length nobody said; raises if the
            disk has no room for more.
    """

    pace: Pace
    report: Callable[[str, int], None]
    check_room: Callable[[int], None]


def fetch_file(session: Session, remote: RemoteFile, folder: Path, watch: Watch) -> str:
    """Bring a file into `folder` under its name and return the sha256 of its content.

    What an earlier attempt has left, of this process or another, is hashed and kept. A file whose
    content is not what was announced is discarded and fetched once more.

    Raises:
        ModelNotFoundError: The server does not have it any more.
        ModelFetchError: It cannot be had, is not what was announced, or the disk is full.
    """
    target = folder / remote.name
    for last in (False, True):
        path = place(folder, remote)
        with opened(path) as descriptor:
            content = Content(descriptor, remote)
            try:
                _complete(session, remote, content, watch)
                if content.is_right(session.halt):
                    os.fsync(descriptor)
                    break
            except OSError as error:
                raise disk_error(error, folder) from error
            finally:
                content.close()
        path.unlink(missing_ok=True)
        if last:
            raise ModelFetchError(
                f"{remote.name} arrived twice with content that is not what the hub announced"
                f" ({content.found()}); it was discarded, try again later or another mirror"
            )
    if path != target:
        with suppress(FileNotFoundError):  # Where locks do not hold, another process was first.
            os.replace(path, target)
    return content.sha256


def _complete(session: Session, remote: RemoteFile, content: Content, watch: Watch) -> None:
    if not (remote.lasting or remote.called):
        content.go_to(0)  # Nothing tells whether what is here is of the same content.
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

    session.retries.run(attempt, brought)


def _attempt(session: Session, remote: RemoteFile, content: Content, watch: Watch) -> None:
    if not (remote.size >= 0 or remote.sha256 or remote.called):
        content.go_to(0)  # Nothing would tell if the rest were another file's.
    headers = {"range": f"bytes={content.offset}-"} if content.offset else {}
    try:
        with session.open(remote.url, headers) as reply:
            check_unchanged(reply, remote)
            content.go_to(first_byte(reply, remote, content.offset))
            for piece in pieces(reply):
                session.halt.pause(watch.pace.delay(len(piece)))
                content.write(piece)
                watch.report(remote.name, content.offset)
                _check_length(remote, content, watch)
    except TransientError as error:
        if error.status == 416:  # What is here is no beginning of what is there.
            content.go_to(0)
        raise
    if 0 <= content.offset < remote.size:
        raise TransientError(f"{remote.name}: {content.offset} of {remote.size} bytes arrived")


def _check_length(remote: RemoteFile, content: Content, watch: Watch) -> None:
    if remote.size < 0:
        watch.check_room(content.offset)
    elif remote.size < content.offset:
        content.go_to(0)
        raise ModelFetchError(
            f"{remote.name} is longer than the {remote.size} bytes that were announced;"
            " it was discarded"
        )


def first_byte(reply: httpx2.Response, remote: RemoteFile, wanted: int) -> int:
    """Return the offset of the body's first byte: `wanted`, or 0 where a whole file comes.

    Raises:
        TransientError: It is another one, or of a file of another length.
    """
    if reply.status_code != 206:
        return 0
    found = _RANGE.fullmatch(reply.headers.get("content-range", ""))
    if found is None or int(found[1]) != wanted:
        raise TransientError(f"{remote.name}: the server sent another part than was asked for")
    if remote.size >= 0 and found[2] not in ("*", str(remote.size)):
        raise TransientError(f"{remote.name}: the server says it has {found[2]} bytes now")
    return wanted


def check_unchanged(reply: httpx2.Response, remote: RemoteFile) -> None:
    """Raise `ModelFetchError` if the server calls the content another than it did before."""
    if is_other(reply, remote.called):
        raise ModelFetchError(
            f"{remote.name} changed on the server during the download; run the same command again"
        )


def place(folder: Path, remote: RemoteFile) -> Path:
    """Return where a file lies now: under its name once it is complete, which counts if it lasts.

    Both folders are made.
    """
    target = folder / remote.name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(folder, remote)
    return target if remote.lasting and target.exists() else part


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file to read and write, made if need be; yields its descriptor.

    While it is downloaded only its owner can reach it; who may read it in the store is for the
    umask to say.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def part_of(folder: Path, remote: RemoteFile) -> Path:
    """Return where a file that is not complete lies, for every process that downloads it.

    Another content has another place, and so has another file of the same content.
    """
    told = "\0".join((remote.url, remote.called, str(remote.size)))
    named = f"{remote.name}\0{remote.sha256 or remote.blob or told}"
    (folder / PARTS).mkdir(exist_ok=True)
    return folder / PARTS / hashlib.sha256(named.encode()).hexdigest()


def disk_error(error: OSError, folder: Path) -> ModelFetchError:
    """Return what to tell of a disk that is full, or fails."""
    return ModelFetchError(
        f"{folder} cannot be written or read: {error.strerror or error}; what has arrived is kept."
        " Make room (`openllm rm`; `openllm gc --interrupted` removes what this and other broken"
        " downloads have left) or set BENTOML_HOME to another disk, then pull again"
    )
