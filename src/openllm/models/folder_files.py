"""The small files of a model folder: each read with a limit, each failure naming file and value.

Links are followed, as the caches of model hubs are made of them.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from typing import Any, NoReturn

from openllm.errors import ModelFileError
from openllm.models.gguf_window import shown

MAX_CONFIG_BYTES = 16 * 1024 * 1024


class FolderFiles:
    """The files directly in one folder, by their names."""

    def __init__(self, path: str) -> None:
        """Raises `ModelFileError` if `path` is no folder that can be listed."""
        self.path = path
        try:
            self.names = sorted(os.listdir(path))
        except FileNotFoundError:
            raise ModelFileError(f"The model folder {_label(path)} does not exist.") from None
        except NotADirectoryError:
            raise ModelFileError(f"{_label(path)} is a file; give the folder it is in.") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ModelFileError(
                f"The model folder {_label(path)} cannot be read: {reason}."
            ) from None

    def fail(self, name: str, problem: str) -> NoReturn:
        """Raise the error that says what is wrong with one file, and what to do."""
        raise ModelFileError(f"{_label(os.path.join(self.path, name))} {problem}.")

    def full(self, name: str) -> str:
        return os.path.join(self.path, name)

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, None if there is none; refuses what is no file."""
        try:
            status = os.stat(self.full(name))
        except (FileNotFoundError, NotADirectoryError):
            if os.path.islink(self.full(name)):
                self.fail(name, "is a link to a file that does not exist; download the model again")
            return None
        except (OSError, ValueError) as error:
            self.fail(name, f"cannot be read: {getattr(error, 'strerror', None) or error}")
        if not stat.S_ISREG(status.st_mode):
            self.fail(name, "is not a file")
        return status.st_size

    def content(self, name: str, limit: int) -> bytes | None:
        """Return what a file holds, None if there is none; refuses more than `limit` bytes."""
        size = self.size(name)
        if size is None:
            return None
        if size > limit:
            self.fail(name, f"has {size} bytes; at most {limit} are possible")
        return self.part(name, 0, limit)

    def part(self, name: str, start: int, length: int) -> bytes:
        """Return `length` bytes of a file from `start` on, or what there is of them."""
        try:
            with open(self.full(name), "rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            self.fail(name, f"cannot be read: {error.strerror}")

    def text(self, name: str, limit: int) -> str | None:
        content = self.content(name, limit)
        try:
            return None if content is None else content.decode()
        except UnicodeDecodeError:
            self.fail(name, "is not UTF-8")

    def object(self, name: str, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any] | None:
        """Return the JSON object in a file, None if there is no file.

        The infinities that Python's own writer makes are read, as real configurations have them
        (Mamba's `time_step_limit`); NaN is refused, as no comparison with it can be trusted.
        """
        content = self.content(name, limit)
        if content is None:
            return None
        try:
            value = json.loads(content, parse_constant=_infinity)
        except RecursionError:
            self.fail(name, "is nested too deeply to be a model's")
        except ValueError as error:
            self.fail(name, f"is not JSON ({error}); download it again")
        if not isinstance(value, dict):
            self.fail(name, f"must hold a JSON object, and holds a {type(value).__name__}")
        return value


def settings(value: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield (path, key, value) of every setting in a JSON value, however deep."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, list):
            waiting += [(path, item) for item in node if isinstance(item, (dict, list))]
            continue
        for key, item in node.items():
            inner = f"{path}.{key}" if path else key
            yield inner, key, item
            if isinstance(item, (dict, list)):
                waiting.append((inner, item))


def _infinity(name: str) -> float:
    if name == "NaN":
        raise ValueError("NaN is no number")
    return float(name)


def _label(path: str) -> str:
    return path if path.isprintable() and len(path) <= 1024 else shown(path)
