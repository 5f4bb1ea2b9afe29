"""Model files on another machine, of which only the headers are read, by range requests."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from openllm.errors import ModelFetchError, ModelFileError
from openllm.models.folder_files import FolderFiles

ReadRange = Callable[[str, int, int], bytes]
"""Takes a file's name, an offset and a length; returns that many bytes, fewer at the end."""

HEAD_BYTES = 128 * 1024
"""First bytes of each file of weights, asked for at once: nearly every header is shorter."""
PARALLEL = 8
MAX_FILES = 1024
"""Files of weights whose first bytes are kept at once, 128 MiB together."""
_FIRST_BLOCK, _BLOCK = 1024 * 1024, 4 * 1024 * 1024


class RangeFile:
    """One remote file as a window reads it; what follows is fetched in growing blocks."""

    def __init__(self, name: str, size: int, read_range: ReadRange) -> None:
        self._name = name
        self._size = size
        self._read_range = read_range
        self._at = 0
        self._start = 0
        self._block = b""

    def seek(self, offset: int, /) -> None:
        self._at = offset

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, or as many as there are until the end of the file."""
        parts = []
        size = min(size, self._size - self._at)
        while size > 0:
            if not self._start <= self._at < self._start + len(self._block):
                self._fetch()
            begin = self._at - self._start
            parts.append(self._block[begin : begin + size])
            self._at += len(parts[-1])
            size -= len(parts[-1])
        return b"".join(parts)

    def _fetch(self) -> None:
        length = min(_BLOCK if self._block else _FIRST_BLOCK, self._size - self._at)
        self._start = self._at
        self._block = self._read_range(self._name, self._at, length)
        if len(self._block) != length:
            raise ModelFetchError(
                f"{self._name} gave {len(self._block)} bytes of {length}; try again later"
            )


class RemoteFiles(FolderFiles):
    """The files of a model's folder that lies on a hub; they are read like those of a folder here.

    A header is never asked for in two requests where one reaches.
    """

    def __init__(self, label: str, sizes: Mapping[str, int], read_range: ReadRange) -> None:
        """Take the `sizes` in bytes by name, -1 of those whose length is not known.

        Names of files in folders within are left out.
        """
        self.path = label
        self.names = sorted(name for name in sizes if os.path.basename(name) == name)
        self._sizes = sizes
        self._read_range = read_range
        self._heads: dict[str, bytes] = {}

    def size(self, name: str) -> int | None:
        return self._sizes.get(name)

    def part(self, name: str, start: int, length: int) -> bytes:
        size = self._sizes[name]
        if name.endswith(".safetensors") and not self._heads:
            self._fetch_heads()
        length = min(length, size - start) if size >= 0 else length
        head = self._heads.get(name, b"")
        if start + length <= len(head):
            return head[start : start + length]
        return self._read_range(name, start, length) if length > 0 else b""

    def _fetch_heads(self) -> None:
        names = [name for name in self.names if name.endswith(".safetensors")]
        if len(names) > MAX_FILES:
            raise ModelFileError(
                f"{self.path} has {len(names)} files of weights; at most {MAX_FILES} are looked at"
            )
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="openllm-headers") as pool:
            self._heads = dict(zip(names, pool.map(self._head, names), strict=True))

    def _head(self, name: str) -> bytes:
        return self._read_range(name, 0, min(HEAD_BYTES, self._sizes[name]))


def weight_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the GGUF files among `names`, the first part of several first."""
    return tuple(sorted(name for name in names if name.lower().endswith(".gguf")))
