"""Adding models to the store and removing them: each change is whole or has not happened.

A model is put together in a folder that BentoML does not list, on the file system of the models,
and gets its name by one `rename`; removing is the same the other way round. What a killed process
leaves is found by `orphans`, which `openllm gc` and downloads within a quota sweep.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from openllm.errors import ConfigurationError, ModelFileError, ModelNotFoundError
from openllm.models import store_find
from openllm.models.store_damaged import DamagedModel
from openllm.models.store_lock import changing, lock, own_folder, unused
from openllm.models.store_model import ModelRecord, StoredFile, StoredModel, is_safe
from openllm.models.store_record import (
    HALF_MADE,
    LATEST,
    examine,
    models_folder,
    read,
    write,
    write_whole,
)
from openllm.models.store_remember import remember
from openllm.models.tags import checked_tag, sha256_of

_HALF_MADE_SECONDS = 60


def add(
    staging: str | os.PathLike[str], record: ModelRecord, *, name: str, version: str
) -> StoredModel:
    """Store the files that `record` lists, of the folder `staging`, as "name:version".

    On one disk the files are linked, not copied, and `staging` stays as it is; across disks they
    are copied. A file without sha256 is hashed. What the store has already under this tag is
    returned; the record's `refs` (the branch or tag that was asked for) are remembered in either
    case. It takes the place of a model whose record is damaged.

    Returns:
        The stored model.

    Raises:
        ConfigurationError: The tag, or the name of a file, is none that the store can hold, or
            another model has the tag, or the store cannot be used.
        ModelFileError: A file is missing or has not the size it should have.
        OSError: The store cannot be written.
    """
    checked_tag(name, version)
    for entry in record.files:
        if not is_safe(entry.name):
            raise ConfigurationError(
                f"{record.source}: the file name {entry.name!r} cannot be stored."
            )
    if present := read(models_folder() / name / version):
        return remember(_same(present, record), record.refs)
    now = datetime.now(timezone.utc)
    with _half_made() as folder:
        placed = tuple(_place(Path(staging), folder, entry) for entry in record.files)
        fields = {**record.recorded(), "files": placed, "refs": ()}
        target = str(models_folder() / name / version)
        model = StoredModel(
            name=name, version=version, folder=target, created=now, used=now, **fields
        )
        write(model, folder)
        _publish(folder, model)
    return remember(read(Path(model.folder)) or model, record.refs)


def remove(tag: str) -> StoredModel:
    """Remove the model with exactly this tag and return what it was.

    Raises:
        ModelNotFoundError: There is none.
        OSError: The store cannot be written.
    """
    model = store_find.find_tag(tag)
    if model is None or model.tag != tag:
        raise ModelNotFoundError(f"There is no model {tag} in the store; see `openllm list`.")
    _discard(model)
    return model


def remove_unused(model: StoredModel | DamagedModel) -> bool:
    """Remove a model unless a process holds it; returns whether it is gone."""
    with unused(Path(model.folder)) as free:
        if free:
            with suppress(ModelNotFoundError):
                _discard(model)
    return not os.path.exists(model.folder)


def delete(folder: Path) -> None:
    """Remove a folder that has no name in the store; another process may be doing the same.

    Of a link that somebody has put in the place of a model's folder, what it leads to stays.
    """
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        shutil.rmtree(folder, ignore_errors=True)


def orphans() -> list[Path]:
    """Return the folders of models that a process was adding or removing when it ended."""
    fresh = time.time() - _HALF_MADE_SECONDS
    parents = [folder for folder in (own_folder(), models_folder()) if folder.is_dir()]
    paths = [path for parent in parents for path in parent.iterdir()]
    with changing():
        return [path for path in paths if path.name.startswith(HALF_MADE) and _left(path, fresh)]


def _same(model: StoredModel, record: ModelRecord) -> StoredModel:
    """Return what is stored, if it is what was to be stored."""
    if (model.source, model.revision) == (record.source, record.revision):
        return model
    if {file.name: file.sha256 for file in record.files} == {f.name: f.sha256 for f in model.files}:
        return model
    raise _taken(model.tag, model.source or "BentoML")


def _taken(tag: str, owner: str, remover: str = "openllm rm") -> ConfigurationError:
    return ConfigurationError(
        f"The store has another model as {tag}, from {owner}; choose another tag or remove that"
        f" one with `{remover} {tag}`.",
        param="model_tag",
    )


def _place(staging: Path, folder: Path, entry: StoredFile) -> StoredFile:
    """Link or copy one file into `folder`; the hub's own cache has links where files should be."""
    origin = os.path.realpath(staging / entry.name)
    target = folder / entry.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.isfile(origin):
        raise ModelFileError(f"{staging / entry.name} is missing; download it again.")
    _link(origin, target)
    state = target.stat()
    if state.st_size != entry.size:
        raise ModelFileError(
            f"{staging / entry.name} has {state.st_size} bytes instead of {entry.size};"
            " download it again."
        )
    return msgspec.structs.replace(
        entry, sha256=entry.sha256 or sha256_of(target), modified=state.st_mtime_ns
    )


def _link(origin: str, target: Path) -> None:
    try:
        os.link(origin, target)
    except OSError:
        # Another disk, a file system without links, a file of another user; or, where locks do
        # nothing, another process that has this moment put the same file in its place.
        shutil.copy2(origin, target)


def _publish(folder: Path, model: StoredModel) -> None:
    """Give a finished folder its name; another process may have been first."""
    target, aside = Path(model.folder), _half_made_path()
    with changing():
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(examine(target), DamagedModel):
            os.rename(target, aside)
        # First, because BentoML repairs a `latest` whose version is missing, but not an old one.
        write_whole(target.parent / LATEST, model.version.encode())
        try:
            os.rename(folder, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if (present := read(target)) is None:
                raise _taken(model.tag, "BentoML", "bentoml models delete") from None
            _same(present, model)
        _settle(model.name)
    with unused(aside) as free:
        if free:
            delete(aside)


def _discard(model: StoredModel | DamagedModel) -> None:
    aside = _half_made_path()
    with changing():
        try:
            os.rename(model.folder, aside)
        except FileNotFoundError:
            raise ModelNotFoundError(f"The model {model.tag} was removed meanwhile.") from None
        _settle(model.name)
    delete(aside)


def _settle(name: str) -> None:
    """Let BentoML's `latest` say the newest version, and remove the folder of a name without."""
    folder = models_folder() / name
    newest = store_find.find_tag(name)
    if newest is not None:
        if _text(folder / LATEST) != newest.version:
            write_whole(folder / LATEST, newest.version.encode())
    elif not any(map(os.path.isdir, folder.glob("*"))):
        (folder / LATEST).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@contextmanager
def _half_made() -> Iterator[Path]:
    """Make a folder for a new model; locked as long as this process works on it."""
    with changing():
        path = _half_made_path()
        path.mkdir()
        descriptor = os.open(path, os.O_RDONLY)
        lock(descriptor, fcntl.LOCK_SH)
    try:
        yield path
    finally:
        os.close(descriptor)
        shutil.rmtree(path, ignore_errors=True)


def _half_made_path() -> Path:
    """Return a new path on the file system of the models, so that a rename can end there."""
    models, own = models_folder(), own_folder()
    models.mkdir(parents=True, exist_ok=True)
    parent = own if _on_one_disk(own, models) else models
    return parent / f"{HALF_MADE}{os.urandom(8).hex()}"


def _on_one_disk(first: Path, second: Path) -> bool:
    return first.stat().st_dev == second.stat().st_dev


def _left(path: Path, fresh: float) -> bool:
    """Whether nobody works in a half-made folder; where locks do nothing, its age tells."""
    with unused(path) as free, suppress(FileNotFoundError):
        return free and path.stat().st_mtime < fresh
    return False
