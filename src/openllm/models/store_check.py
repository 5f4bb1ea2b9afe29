"""Whether a stored model's files still hold what was stored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from openllm.errors import ModelFileError, ModelNotFoundError
from openllm.models.store_change import rewrite
from openllm.models.store_find import find_tag
from openllm.models.store_record import StoredFile, StoredModel
from openllm.models.tags import sha256_of


class Damage(msgspec.Struct, frozen=True):
    """A file that is not what was stored: what was expected of it and what was found."""

    tag: str
    file: str
    expected: str
    found: str


def verify(tag: str) -> tuple[Damage, ...]:
    """Compare every byte of a model with the recorded hashes; 1 to 2 GB a second.

    A file without a recorded hash (BentoML records none) is not compared.

    Raises:
        ModelNotFoundError: There is no such model.
    """
    model = find_tag(tag)
    if model is None:
        raise ModelNotFoundError(f"There is no model {tag} in the store; see `openllm list`.")
    return tuple(_damages(model, model.files))


def quick_check(model: StoredModel) -> StoredModel:
    """Compare sizes and times of change with what was recorded, before the model is loaded.

    A file whose time alone differs (a store that was copied or imported) is hashed, and if it is
    as it was, its new time is recorded; so this costs nothing the next time.

    Raises:
        ModelFileError: A file is missing or changed; names the command that checks it all.
    """
    changed = tuple(file for file in model.files if _modified(model, file) != file.modified)
    if not model.hashed or not changed:
        return model
    for damage in _damages(model, changed):
        raise ModelFileError(
            f"{os.path.join(model.folder, damage.file)} is damaged: expected {damage.expected},"
            f" found {damage.found}. Run `openllm verify {model.tag}`.",
        )
    files = tuple(
        msgspec.structs.replace(file, modified=_modified(model, file)) for file in model.files
    )
    renewed = msgspec.structs.replace(model, files=files)
    rewrite(renewed)
    return renewed


def _damages(model: StoredModel, files: tuple[StoredFile, ...]) -> Iterator[Damage]:
    for file in files:
        try:
            difference = _difference(Path(model.folder, file.name), file)
        except OSError as error:
            difference = f"{file.size} bytes", f"nothing: {error.strerror}"
        if difference is not None:
            yield Damage(model.tag, file.name, *difference)


def _difference(path: Path, file: StoredFile) -> tuple[str, str] | None:
    """Return what was expected and what was found; None if they are the same."""
    size = path.stat().st_size
    if size != file.size:
        return f"{file.size} bytes", f"{size} bytes"
    if file.sha256 and (found := sha256_of(path)) != file.sha256:
        return f"sha256 {file.sha256}", f"sha256 {found}"
    return None


def _modified(model: StoredModel, file: StoredFile) -> int:
    """Return the file's time of change; -1, which is never recorded, if it is gone."""
    try:
        state = os.stat(os.path.join(model.folder, file.name))
    except OSError:
        return -1
    return state.st_mtime_ns if state.st_size == file.size else -1
