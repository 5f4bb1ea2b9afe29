"""What a folder of the store holds in bytes, while other processes may be changing it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def held(folder: Path, but: str = "") -> int:
    """Return the bytes of all files in `folder`, without those of the name `but`."""
    return sum(state.st_size for name, state in _files(folder) if name != but)


def freed(folder: Path) -> int:
    """Return the bytes that removing `folder` frees: what something else links to stays."""
    return sum(state.st_size for _, state in _files(folder) if state.st_nlink == 1)


def last_change(folder: Path) -> float:
    """Return when `folder` or anything in it changed last, in seconds since 1970."""
    return max((state.st_mtime for _, state in _states(folder)), default=time.time())


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    return (each for each in _states(folder) if stat.S_ISREG(each[1].st_mode))


def _states(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield name and state of a folder and of all in it, but for what can not be seen any more."""
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names, "."):
            with suppress(OSError):
                yield name, os.lstat(os.path.join(parent, name))
