"""Locks between processes: one for changes of the store, one on each model that is in use.

They are the kernel's (`flock`), so they end with the process that holds them, however it ends. On
a file system without them every change is still whole, because it is one `rename`; only the order
of changes is then not guarded.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from openllm.errors import ConfigurationError, ModelFileError
from openllm.models.store_model import StoredModel
from openllm.models.store_record import home

_HELD = (errno.EWOULDBLOCK, errno.EACCES)


class Hold:
    """A lock that this process has, until `close` or its end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def close(self) -> None:
        """Let others have it; closing twice does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def check_place() -> None:
    """Check that the folder of the store is there, or can be made.

    Raises:
        ConfigurationError: It cannot, or something else lies there; says what to do.
    """
    folder = home()
    if folder.is_dir():
        return
    above = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    trial = above / f".openllm-{os.urandom(8).hex()}"
    try:
        trial.mkdir()  # Only trying tells: root may write everywhere, but not below /proc.
        trial.rmdir()
    except OSError as error:
        raise _unusable(f"no folder can be made in {above}: {error.strerror}") from error


def own_folder() -> Path:
    """Return the folder of the store that BentoML knows nothing of, made if need be.

    Raises:
        ConfigurationError: It cannot be made.
    """
    folder = home() / "openllm"
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn what the system says of a path of the store into an error that says what to do.

    Raises:
        ConfigurationError: The block raised `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise _unusable(f"{path}: {error.strerror}") from error


def _unusable(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The store of models {home()} cannot be used: {why}; set BENTOML_HOME, or --models-dir,"
        " to a folder that this user can write",
        param="models_dir",
    )


def changing() -> AbstractContextManager[None]:
    """Hold the lock of the store: one process at a time adds or removes a model's name."""
    return _alone("store.lock")


def dividing() -> AbstractContextManager[None]:
    """Hold the lock of the quota: one download at a time is given a part of it."""
    return _alone("quota.lock")


@contextmanager
def _alone(name: str) -> Iterator[None]:
    path = own_folder() / name
    with told(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        lock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def hold(model: StoredModel) -> Hold:
    """Keep the model from being removed while it is loaded.

    Raises:
        ModelFileError: It was removed meanwhile, or cannot be read.
    """
    try:
        held = _held(model.folder, os.O_RDONLY | os.O_DIRECTORY, fcntl.LOCK_SH)
    except FileNotFoundError:
        held = None
    except OSError as error:
        raise ModelFileError(f"The model {model.tag} cannot be read: {error}.") from None
    if held is None:
        raise ModelFileError(
            f"The model {model.tag} was just removed from the store; pull it again."
        )
    return held


def lead(path: Path) -> Hold | None:
    """Take the lock of a file, made if need be; None while another process, or thread, has it.

    Raises:
        ConfigurationError: The file cannot be made.
    """
    with told(path):
        return _held(path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _held(path: str | Path, flags: int, operation: int) -> Hold | None:
    """Lock what is at `path`; None if another process has it, or has meanwhile taken it away."""
    descriptor = os.open(path, flags, 0o666)
    try:
        # Whoever takes away a name has its lock while doing so.
        if lock(descriptor, operation) and _is_at(descriptor, path):
            held, descriptor = Hold(descriptor), -1
            return held
        return None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _is_at(descriptor: int, path: str | Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Yield whether nobody holds the file or folder at `path`; nobody can until the block ends."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        yield lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def lock(descriptor: int, operation: int) -> bool:
    """Lock an open file; returns False if another process holds it and waiting was not asked."""
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        return error.errno not in _HELD
    return True
