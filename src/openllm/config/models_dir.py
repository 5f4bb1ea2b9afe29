"""Where models are stored: BENTOML_HOME, which can also be given as the option `models_dir`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from openllm.errors import ConfigurationError

VARIABLE = "BENTOML_HOME"
NAMES = ("models_dir", "download_dir")
MEANING = (
    "Folder where models are stored and found; a FILE.gguf that is not here is also looked for in"
    " it [default: BENTOML_HOME, or ~/bentoml]."
)


def checked_folder(text: str) -> str:
    """Return the folder's absolute path, where "~" is the user's home; it need not exist yet.

    Raises:
        ValueError: It is empty, or something else lies there.
    """
    if not text.strip():
        raise ValueError("it is empty; give a folder or leave the option out")
    path = os.path.abspath(os.path.expanduser(text))
    if os.path.expanduser(text).startswith("~"):
        raise ValueError("there is no such home folder; give the path from / on, or ./~")
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError("this is a file; give the path of a folder")
    return path


class _Set(NamedTuple):
    """What the option has made of BENTOML_HOME, and what that was before; None if unset."""

    folder: str
    before: str | None


_set: _Set | None = None


@contextmanager
def using_models_dir(value: object) -> Iterator[None]:
    """Store and find models below a folder, in this process and in its children from now on.

    A failure inside of the context undoes it.

    Args:
        value: The folder as the user wrote it; None for BENTOML_HOME as it was without the option.
            What is no folder changes nothing: the check of the settings refuses it.
    """
    global _set
    now = os.environ.get(VARIABLE)
    own = _set.before if _set is not None and _set.folder == now else now
    with undone_on_failure():
        if value is None:
            _put(own)
            _set = None
        elif isinstance(value, (str, os.PathLike)):
            with suppress(ValueError):
                folder = checked_folder(os.fspath(value))
                _put(folder)
                _set = _Set(folder, own)
        yield


def adopt_models_dir(folder: str | None) -> None:
    """Store and find models below a folder from now on, unless the option has named another.

    Raises:
        ConfigurationError: It cannot be one.
    """
    global _set
    if folder is None or _set is not None:
        return
    try:
        checked = checked_folder(folder)
    except ValueError as error:
        raise ConfigurationError(f"models_dir {folder!r}: {error}", param="models_dir") from None
    _set = _Set(checked, os.environ.get(VARIABLE))
    _put(checked)


@contextmanager
def undone_on_failure() -> Iterator[None]:
    """Leave the folder of models as it was if the context fails, whatever was set inside of it."""
    global _set
    before, set_before = os.environ.get(VARIABLE), _set
    try:
        yield
    except BaseException:
        _put(before)
        _set = set_before
        raise


def _put(folder: str | None) -> None:
    if folder is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = folder
