"""Where models are stored: BENTOML_HOME, which can also be given as the option `models_dir`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError("this is a file; give the path of a folder")
    return path


@contextmanager
def using_models_dir(value: object) -> Iterator[None]:
    """Store and find models below a folder, in this process and in its children from now on.

    A failure inside of the context leaves everything as it was.

    Args:
        value: The folder as the user wrote it. What is no folder changes nothing: the check of the
            settings refuses it.
    """
    before = os.environ.get(VARIABLE)
    if isinstance(value, (str, os.PathLike)):
        with suppress(ValueError):
            os.environ[VARIABLE] = checked_folder(os.fspath(value))
    try:
        yield
    except BaseException:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before
        raise
