"""What a model is called in BentoML's model store: `<framework>-<repo>--<model_id>:<version>`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from openllm.errors import ConfigurationError, ModelFileError
from openllm.models.gguf_parts import parts_there

MAX_PART = 63  # BentoML's limit for a name and for a version.
_PART = re.compile(r"[a-z0-9]([-._a-z0-9]*[a-z0-9])?")
_FOREIGN = re.compile(r"[^-._a-z0-9]+")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_BLOCK = 1 << 20
_DIGITS = 8

_FRAMEWORKS = {"torch": "pt"}
"""Where the documents have another name than our engine."""


def framework_name(engine: str) -> str:
    """Return what tags begin with for models that `engine` runs: "pt" for torch, else its name."""
    return _FRAMEWORKS.get(engine, engine)


def stored_name(framework: str, model: str, file: str = "") -> str:
    """Return the name in the store of `model`, a hub id or a local model's name.

    `file` is the one GGUF file taken from a repository of many; its shard numbers do not count. A
    name that is too long, or that has letters outside ASCII, ends in 8 digits of a hash, so that
    no two models share it.
    """
    whole = f"{framework_name(framework)}-{model}"
    if file:
        whole += "/" + _SHARD.sub("", os.path.splitext(file)[0])
    name = _FOREIGN.sub("-", whole.lower().replace("/", "--")).rstrip("-._")
    if len(name) <= MAX_PART and whole.isascii():
        return name
    digits = hashlib.sha256(whole.encode()).hexdigest()[:_DIGITS]
    return f"{name[: MAX_PART - _DIGITS - 1].rstrip('-._')}-{digits}"


def checked_tag(name: str, version: str) -> str:
    """Return "name:version".

    Raises:
        ConfigurationError: BentoML cannot store a model under it.
    """
    for what, part in (("model_name", name), ("model_version", version)):
        if not is_part(part):
            raise ConfigurationError(
                f"{what} is {part!r}; use at most {MAX_PART} lower-case letters, digits, '-', '_'"
                " and '.', and begin and end with a letter or digit",
                param=what,
            )
    return f"{name}:{version}"


def is_part(text: object) -> bool:
    """Whether `text` is one that can be a name or a version in the store."""
    return isinstance(text, str) and len(text) <= MAX_PART and _PART.fullmatch(text) is not None


def given_tag(
    tag: object | None, name: str | None, version: str | None
) -> tuple[str | None, str | None]:
    """Return the name and version to use in the store, None where they are derived."""
    if tag is not None:
        if name is not None or version is not None:
            raise ConfigurationError(
                "model_tag excludes model_name and model_version; give one or the other",
                param="model_tag",
            )
        name, _, found = str(tag).partition(":")
        version = found or None
    checked_tag(name or "derived", version or "derived")
    return name, version


def content_version(path: str) -> str:
    """Return 16 hexadecimal digits that change with the content of a model's file or folder.

    Every byte is read, once as long as no file changes: 1 to 2 GB a second.

    Raises:
        ModelFileError: A file cannot be read.
    """
    root = Path(path)
    try:
        digest = hashlib.sha256()
        for file in content_files(root):
            name = file.relative_to(root).as_posix() if file.is_relative_to(root) else "."
            state = file.stat()
            digest.update(
                f"{name}\0{_hash(str(file), state.st_size, state.st_mtime_ns)}\n".encode()
            )
    except OSError as error:
        raise ModelFileError(f"{error.filename} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()[:16]


def content_files(root: Path) -> Iterator[Path]:
    """Yield the files of a model in an order of their own; hidden ones are no part of it.

    `root` is a folder, or a file, whose further parts come after it.
    """
    if root.is_file():
        yield from map(Path, parts_there(root))
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder, name)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file's bytes as 64 hexadecimal digits; raises `OSError`."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        block = memoryview(bytearray(_BLOCK))
        while length := file.readinto(block):
            digest.update(block[:length])
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _hash(path: str, _size: int, _modified: int) -> str:
    return sha256_of(path)
