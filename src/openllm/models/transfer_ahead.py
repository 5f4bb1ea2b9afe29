"""The beginning of a file, read before its download: what is fetched for that, the download keeps.

Whoever reads holds the lock of the download.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from openllm.errors import ModelFetchError
from openllm.models.transfer import check_unchanged, first_byte, opened, place
from openllm.models.transfer_content import write_at
from openllm.models.transfer_http import MAX_READ_SECONDS, Session, pieces
from openllm.models.transfer_retry import TransientError

if TYPE_CHECKING:
    from openllm.models.hub import RemoteFile


def read_ahead(
    session: Session, remote: RemoteFile, folder: Path, start: int, length: int
) -> bytes:
    """Return `length` bytes from `start` of a file that `folder` is to get, fewer at its end.

    All before them that is not here is fetched too, to where the download goes on from. What is
    here is believed; the download hashes it.

    Raises:
        ModelNotFoundError: The server does not have the file.
        ModelFetchError: It gives no parts of files, fails or refuses.
        OSError: The disk is full, or cannot be written.
    """
    with opened(place(folder, remote)) as descriptor:
        end = min(start + length, remote.size)
        session.retries.run(lambda: _extend(session, remote, descriptor, end))
        return os.pread(descriptor, length, start)


def _extend(session: Session, remote: RemoteFile, descriptor: int, end: int) -> None:
    """Let the file on the disk have its first `end` bytes."""
    at = os.fstat(descriptor).st_size
    if at >= end:
        return
    deadline = monotonic() + MAX_READ_SECONDS
    with session.open(remote.url, {"range": f"bytes={at}-{end - 1}"}) as reply:
        if reply.status_code != 206:
            raise ModelFetchError(f"{remote.name}: the server gives no parts of files")
        check_unchanged(reply, remote)
        first_byte(reply, remote, at)
        for piece in pieces(reply):
            if at + len(piece) > end:
                raise ModelFetchError(f"{remote.name}: the server sent more than was asked for")
            write_at(descriptor, piece, at)
            at += len(piece)
            if monotonic() > deadline:
                raise ModelFetchError(f"{remote.name} trickled for {MAX_READ_SECONDS:.0f} s")
    if at < end:
        raise TransientError(f"{remote.name}: {at} of its first {end} bytes arrived")
