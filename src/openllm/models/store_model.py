"""What is known of a stored model: where it came from, its files, and where it lies."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import msgspec

from openllm.types import ModelFormat

RECORD = "model.yaml"


class StoredFile(msgspec.Struct, frozen=True):
    """One file of a model: its path below the folder with "/", and what it must hold.

    `sha256` is 64 hexadecimal digits, "" where unknown; `modified` is the time of the last change
    in nanoseconds since 1970, 0 where nothing is recorded.
    """

    name: str
    size: int
    sha256: str = ""
    modified: int = 0


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is, whatever it is called in the store; the names are those of its JSON.

    Attributes:
        format: What the files are.
        source: Hub id, URL or path that it came from; "" if BentoML stored it.
        revision: The commit, for a hub id.
        file: The one file asked for, where the source has more.
        refs: Branches and tags of the source that meant this commit when it was downloaded, or the
            URLs that had the same content.
        files: Its files, without BentoML's own.
    """

    format: ModelFormat
    source: str = ""
    revision: str = ""
    file: str = ""
    refs: tuple[str, ...] = ()
    files: tuple[StoredFile, ...] = ()

    def recorded(self) -> dict[str, Any]:
        """Return these fields alone by their names, also of a `StoredModel`."""
        return {name: getattr(self, name) for name in ModelRecord.__struct_fields__}

    def sound(self) -> bool:
        """Whether no name leads out of the folder, there is a file, and all can be printed."""
        safe = all(is_safe(file.name) for file in self.files) and len(self.files) > 0
        return safe and "".join((self.source, self.revision, self.file, *self.refs)).isprintable()


class StoredModel(ModelRecord, frozen=True, kw_only=True):
    """A model in the store.

    Attributes:
        name: First half of its tag.
        version: Second half of its tag.
        folder: Absolute path of the folder that holds its files.
        created: When it was stored.
        used: When it was last stored or loaded.
    """

    name: str
    version: str
    folder: str
    created: datetime
    used: datetime

    @property
    def tag(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    @property
    def path(self) -> str:
        """What an engine loads: the folder, or the file asked for, else the first GGUF file."""
        if self.format == "safetensors":
            return self.folder
        names = sorted((file.name for file in self.files), key=_loaded_first)
        return os.path.join(self.folder, self.file if self.file in names else names[0])

    @property
    def hashed(self) -> bool:
        """Whether what its files must hold was recorded, so that it can be checked."""
        return all(file.sha256 for file in self.files)


def is_safe(name: str) -> bool:
    """Whether `name` is the plain relative path of a file that stays in its folder."""
    path = PurePosixPath(name)
    plain = name.isprintable() and "\\" not in name and not path.is_absolute()
    return plain and ".." not in path.parts and str(path) == name and name not in (".", RECORD)


def is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _loaded_first(name: str) -> tuple[bool, bool, str]:
    """Order files: the first shard of the model before the projector of its images, then others."""
    return not is_gguf(name), "mmproj" in name.lower(), name
