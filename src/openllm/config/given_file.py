"""Files that the user names. They are read again when the server is asked to, so pipes are kept."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_KEPT: dict[tuple[int, int], bytes] = {}
"""What came out of each pipe, by its device and number: nothing comes a second time."""


def content_of(path: Path, limit: int = -1) -> bytes:
    """Return what a file holds; of a pipe, as `<(command)` makes one, what came at first.

    Args:
        limit: Most bytes to read; -1 for all.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if stat.S_ISREG(found.st_mode):
            return file.read(limit)
        key = (found.st_dev, found.st_ino)
        if key not in _KEPT:
            _KEPT[key] = file.read(limit)
        return _KEPT[key]
