"""Whether a stored model's files still hold what was stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from shlex import quote

import msgspec

from openllm.errors import ModelFileError, ModelNotFoundError
from openllm.models.ref import ADAPTER, NO_WEIGHTS, shown_source
from openllm.models.store_derived import FOR_ADAPTERS, derived_tag
from openllm.models.store_find import find_tag
from openllm.models.store_model import StoredFile, StoredModel
from openllm.models.store_remember import rewrite
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
    return tuple(_damages(model, model.files, sha256_of))


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
    for damage in _damages(model, changed, _hash_at):
        raise ModelFileError(
            f"{os.path.join(model.folder, damage.file)} is damaged: expected {damage.expected},"
            f" found {damage.found}. Run `openllm verify {model.tag}` to check the whole model."
            f" To replace it: {remedy(model)}",
        )
    files = tuple(
        msgspec.structs.replace(file, modified=_modified(model, file)) for file in model.files
    )
    return rewrite(model, lambda now: msgspec.structs.replace(now, files=files))


@contextmanager
def blamed(tag: str) -> Iterator[None]:
    """Have what is wrong with the files of a stored model tell its tag, and how to check them.

    Damage that leaves a file's size and time as they were is seen only when the file is read.

    Args:
        tag: Of the model; with "", as of what is in no store, errors stay as they are.
    """
    try:
        yield
    except ModelFileError as error:
        if not tag:
            raise
        raise ModelFileError(
            f"{error.message.removesuffix('.')} (stored as {tag}; `openllm verify {tag}` compares"
            " its files with what was downloaded).",
            param=error.param,
        ) from error


def remedy(model: StoredModel) -> str:
    """Return what to do about damage: a download of the same again, or the files from their place.

    For a shell; commands without a sentence's end.
    """
    remove = f"openllm rm --yes {model.tag}"
    if model.file in (NO_WEIGHTS, ADAPTER) or derived_tag(model, FOR_ADAPTERS) == model.tag:
        return f"{remove}, and the next start of the model that it is for downloads it again"
    if model.revision:
        file = f":{model.file}" if model.file else ""
        return f"{remove} && openllm pull {quote(f'{model.source}@{model.revision}{file}')}"
    if "://" in model.source:
        return f"{remove} && openllm pull {quote(shown_source(model.source))}"
    return f"{remove}, then store it again from {model.source or 'where it came from'}"


def _damages(
    model: StoredModel, files: tuple[StoredFile, ...], hashed: Callable[[Path], str]
) -> Iterator[Damage]:
    for file in files:
        try:
            difference = _difference(Path(model.folder, file.name), file, hashed)
        except OSError as error:
            difference = f"{file.size} bytes", f"nothing: {error.strerror}"
        if difference is not None:
            yield Damage(model.tag, file.name, *difference)


def _difference(
    path: Path, file: StoredFile, hashed: Callable[[Path], str]
) -> tuple[str, str] | None:
    """Return what was expected and what was found; None if they are the same."""
    size = path.stat().st_size
    if size != file.size:
        return f"{file.size} bytes", f"{size} bytes"
    if file.sha256 and (found := hashed(path)) != file.sha256:
        return f"sha256 {file.sha256}", f"sha256 {found}"
    return None


def _modified(model: StoredModel, file: StoredFile) -> int:
    """Return the file's time of change; -1, which is never recorded, if it is gone."""
    try:
        state = os.stat(os.path.join(model.folder, file.name))
    except OSError:
        return -1
    return state.st_mtime_ns if state.st_size == file.size else -1


def _hash_at(path: Path) -> str:
    """Return a file's hash, read once as long as its time stays: the store may not be writable."""
    state = path.stat()
    return _read_once(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)
def _read_once(path: Path, _size: int, _modified: int) -> str:
    return sha256_of(path)
