"""A model in several GGUF files: their names, by which llama.cpp finds them beside the first."""

from __future__ import annotations

import os
import re

from openllm.errors import ModelFileError

MAX_PARTS = 1024
_NAME = re.compile(r"(.*-)\d{5}(-of-(\d{5})\.gguf)", re.DOTALL)


def part_paths(path: str | os.PathLike[str], count: int) -> tuple[str, ...]:
    """Return the paths of all `count` parts, given that of the first.

    Raises:
        ModelFileError: There are too many, or the name of the first does not say that it is.
    """
    first = os.fspath(path)
    if count == 1:
        return (first,)
    ending = f"-{1:05d}-of-{count:05d}.gguf"
    name = os.path.basename(first)
    if count > MAX_PARTS:
        raise ModelFileError(f"{name} is one of {count} parts; at most {MAX_PARTS} are supported.")
    if not first.endswith(ending):
        raise ModelFileError(
            f"{name} is one of {count} parts, and its name does not end with {ending}: give the"
            " first part by the name it was made with, all parts beside it."
        )
    stem = first.removesuffix(ending)
    return tuple(f"{stem}-{part:05d}-of-{count:05d}.gguf" for part in range(1, count + 1))


def parts_there(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the file and those beside it that by their names are parts of the same model.

    No header is read; a file whose name speaks of no parts is alone.
    """
    name = os.fspath(path)
    found = _NAME.fullmatch(name)
    if found is None:
        return (name,)
    count = min(int(found[3]), MAX_PARTS)
    parts = (f"{found[1]}{part:05d}{found[2]}" for part in range(1, count + 1))
    return tuple(each for each in parts if each == name or os.path.exists(each))
