"""The folders that models are downloaded into, until they are complete.

Each has a lock beside it, held by the process at work in it. Until its download has begun there is
no more in it than what was read to look at the model, which nobody misses.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path

import msgspec

from openllm.models.store_change import delete
from openllm.models.store_folders import freed, last_change
from openllm.models.store_lock import Hold, lead, own_folder, told, unused

PROMISED = ".promised"
"""The file in a download's folder that says what it has of the quota, in bytes."""
_BEGUN = ".begun"

_READABLE = 80
_DIGITS = 16


class Leftover(msgspec.Struct, frozen=True):
    """A folder of interrupted work, the bytes that removing it frees, and its last change."""

    folder: str
    size: int
    changed: datetime


def staging(source: str, commit: str, file: str = "") -> Path:
    """Return the folder to download one model into, made if need be, readable by its owner only.

    It is the same for every process until the download is done; `lock_of` guards it.

    Raises:
        ConfigurationError: The store cannot be written.
    """
    readable = re.sub(r"[^a-z0-9._-]+", "-", f"{source}-{file}".lower()).strip("-.")[:_READABLE]
    digits = sha256("\0".join((source, commit, file)).encode()).hexdigest()[:_DIGITS]
    downloads = _downloads()
    path = downloads / f"{readable}-{digits}"
    with told(path):
        downloads.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    return path


def lock_of(folder: Path) -> Path:
    """Return the file whose lock (`flock`) says that a process downloads into `folder`."""
    return folder.with_name(f"{folder.name}.lock")


@contextmanager
def working(folder: Path, held: Hold) -> Iterator[None]:
    """Let go of the lock of `folder` at the end; of an empty folder nothing is left then."""
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()
        with suppress(OSError):
            if not folder.exists():  # While nobody else can have the lock.
                lock_of(folder).unlink(missing_ok=True)
        held.close()


def begin(folder: Path) -> None:
    """Record that the model is wanted: what arrives from now on is kept if it is interrupted.

    Raises:
        OSError: The disk is full, or cannot be written.
    """
    (folder / _BEGUN).touch()


def forget(folder: Path) -> None:
    """Remove what was read to look at a model that is refused; the caller holds the lock."""
    if not begun(folder):
        shutil.rmtree(folder, ignore_errors=True)


def forget_look(folder: Path) -> None:
    """Do the same unless another process holds the lock."""
    if (held := lead(lock_of(folder))) is not None:
        with working(folder, held):
            forget(folder)


def promised(beside: Path) -> int:
    """Return what downloads that are under way have of the quota, but for the one at `beside`."""
    total = 0
    for file in _downloads().glob(f"*/{PROMISED}"):
        if file.parent == beside or _abandoned(file.parent):
            continue
        with suppress(OSError, ValueError):  # It has just ended.
            total += int(file.read_text("ascii"))
    return total


def interrupted() -> Iterator[Leftover]:
    """Yield the folders that no process works in."""
    for path in sorted(_downloads().glob("*")):
        if path.is_dir() and _abandoned(path):
            yield leftover(path)


def begun(folder: Path) -> bool:
    """Whether the model was wanted, so that a download may go on from what is there."""
    return (folder / _BEGUN).exists()


def leftover(folder: Path) -> Leftover:
    changed = datetime.fromtimestamp(last_change(folder), timezone.utc)
    return Leftover(str(folder), freed(folder), changed)


def sweep(folder: Path) -> None:
    """Remove a folder, unless a process has just begun to work in it."""
    if (held := lead(lock_of(folder))) is not None:
        with working(folder, held):
            delete(folder)


def _abandoned(folder: Path) -> bool:
    if not lock_of(folder).exists():
        return True
    with unused(lock_of(folder)) as free:
        return free


def _downloads() -> Path:
    return own_folder() / "downloads"
