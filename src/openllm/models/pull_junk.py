"""What a server sends in place of weights: a web page, a pointer of Git LFS, anything else."""

from __future__ import annotations

import os
from pathlib import Path

from openllm.errors import ModelFileError
from openllm.models.gguf_window import shown

_BEGINNING = 80
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")
_POINTER = b"version https://git-lfs"


def check_weights(path: Path) -> None:
    """Check that a downloaded file is of the format that its name says; other names pass.

    Raises:
        ModelFileError: It is not; says what it is as far as that can be seen.
        OSError: It cannot be read.
    """
    kind = path.suffix.lower()
    if kind not in (".gguf", ".safetensors"):
        return
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(_BEGINNING)
    if _is_gguf(start) if kind == ".gguf" else _is_safetensors(start, size):
        return
    name = "GGUF" if kind == ".gguf" else "safetensors"
    raise ModelFileError(
        f"{path.name} is not a {name} file: {_what(start, size)}. It was discarded; check the"
        " address, or choose another file"
    )


def _is_gguf(start: bytes) -> bool:
    return start.startswith(b"GGUF")


def _is_safetensors(start: bytes, size: int) -> bool:
    """Whether a header follows the 8 bytes with its length."""
    return 2 <= int.from_bytes(start[:8], "little") <= size - 8 and start[8:9] == b"{"


def _what(start: bytes, size: int) -> str:
    text = start.lstrip().lower()
    if not size:
        return "it is empty"
    if text.startswith(_POINTER):
        return "it is a pointer of Git LFS, without the content"
    if text.startswith(_PAGES):
        return "it is a web page"
    words = start.decode("ascii", "replace").partition("\n")[0]
    begins = shown(words) if words.isprintable() and words.isascii() else repr(start[:8])
    return f"its {size} bytes begin with {begins}"
