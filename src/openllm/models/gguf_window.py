"""A window of 1 MiB over a little-endian file: every read is checked against the file's size.

The file is never mapped: a mapping of a file that shrinks meanwhile kills the process. It knows
integers and length-prefixed strings, and nothing of what they mean.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct
from typing import NoReturn, Protocol

from openllm.errors import ModelFileError

MAX_STRINGS = 4_000_000
"""Most strings in all arrays of a file: 16 times the largest vocabulary known, half a second."""

MAX_HEADER_BYTES = 256 * 1024 * 1024
"""Longest header: ten times the largest known. It bounds the time that a hostile file takes."""

_WINDOW = 1024 * 1024
_U32 = Struct("<I")
_U64 = Struct("<Q")


def shown(text: str) -> str:
    """Return a text from a file as it may stand in a message: quoted, escaped, short."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


@contextmanager
def open_window(path: str | os.PathLike[str]) -> Iterator[Window]:
    """Open the regular file at `path`; raises `ModelFileError` when it cannot be read."""
    name = os.path.basename(os.fspath(path))
    name = name if name.isprintable() else shown(name)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ModelFileError(f"{name} is not a file.")
        with open(path, "rb", buffering=0) as file:
            yield Window(file, name, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise ModelFileError(f"{name} does not exist.") from None
    except OSError as error:
        raise ModelFileError(f"{name} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{name} is no possible file name.") from error


class Source(Protocol):
    """Where bytes are read from: an open file, or one on another machine."""

    def seek(self, offset: int, /) -> object: ...

    def read(self, size: int, /) -> bytes: ...


class Window:
    """Reads a file from its beginning on; `position` is the offset of the next byte."""

    def __init__(self, file: Source, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self._file = file
        self._buffer = b""
        self._start = 0
        self._at = 0
        self._strings = 0

    @property
    def position(self) -> int:
        return self._start + self._at

    def fail(self, problem: str) -> NoReturn:
        """Raise the error that says what is wrong with this file."""
        raise ModelFileError(f"{self.name} {problem}.")

    def seek(self, position: int) -> None:
        """Continue at `position`, which must lie in the file or at its end."""
        if position > self.size:
            self.fail(f"is truncated: needs at least {position} bytes, has {self.size}")
        if position > MAX_HEADER_BYTES:
            self.fail(f"has a header of more than {MAX_HEADER_BYTES} bytes, which is not supported")
        if self._start <= position <= self._start + len(self._buffer):
            self._at = position - self._start
        else:
            self._start, self._at, self._buffer = position, 0, b""

    def skip(self, count: int) -> None:
        self.seek(self.position + count)

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes; the caller bounds `count`."""
        self._need(count)
        begin = self._at
        self._at += count
        return self._buffer[begin : self._at]

    def scalar(self, layout: Struct) -> int | float | bool:
        value: int | float | bool = layout.unpack(self.take(layout.size))[0]
        return value

    def uint32(self) -> int:
        return int(self.scalar(_U32))

    def uint64(self) -> int:
        return int(self.scalar(_U64))

    def text(self, limit: int, what: str) -> str:
        """Return the string that follows, of at most `limit` bytes of UTF-8."""
        length = self.uint64()
        if length > limit:
            self._too_long(what, length, limit)
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            self.fail(f"is damaged: {what} is not UTF-8")

    def skip_strings(self, count: int) -> None:
        """Skip `count` strings without making them; some 0.15 µs each."""
        self._count_strings(count)
        length = _U64.unpack_from
        buffer, at, last = self._buffer, self._at, len(self._buffer) - 8
        for _ in range(count):
            if at > last:
                self.seek(self._start + at)
                self._need(8)
                buffer, at, last = self._buffer, self._at, len(self._buffer) - 8
            at += 8 + length(buffer, at)[0]
        self.seek(self._start + at)

    def strings(self, count: int, limit: int, what: str) -> list[bytes]:
        """Return `count` strings of at most `limit` bytes, which were skipped before."""
        length = _U64.unpack_from
        found: list[bytes] = []
        buffer, at, last = self._buffer, self._at, len(self._buffer) - 8 - limit
        for index in range(count):
            if at > last:  # It may not be in the buffer as a whole.
                self.seek(self._start + at)
                self._need(max(8, min(8 + limit, self.size - self.position)))
                buffer, at, last = self._buffer, self._at, len(self._buffer) - 8 - limit
            size = length(buffer, at)[0]
            if size > limit:
                self._too_long(f"{what} {index}", size, limit)
            at += 8 + size
            found.append(buffer[at - size : at])
        self.seek(self._start + at)
        return found

    def _too_long(self, what: str, size: int, limit: int) -> NoReturn:
        self.fail(f"is damaged: {what} claims {size} bytes, at most {limit} are possible")

    def _count_strings(self, count: int) -> None:
        if count > (self.size - self.position) // 8:
            self.fail(f"is damaged: an array of {count} strings cannot be in {self.size} bytes")
        self._strings += count
        if self._strings > MAX_STRINGS:
            self.fail(f"has more than {MAX_STRINGS} strings in its header, which is not supported")

    def _need(self, count: int) -> None:
        if self._at + count <= len(self._buffer):
            return
        position = self.position
        self.seek(position + count)
        self._file.seek(position)
        self._buffer = self._file.read(max(count, _WINDOW))
        self._start, self._at = position, 0
        if len(self._buffer) < count:
            self.fail(f"became shorter than {self.size} bytes while it was read")
