"""What the libraries of engines raise, in words for people: one line of bounded length."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

LIMIT = 600
"""Characters of what a library says that are told."""

_UNKNOWN_TYPE = re.compile(r"model type `([^`]{1,100})` but Transformers does not recognize")


def told(error: BaseException) -> str:
    """Return what an exception says, with its class where the words alone may mean little.

    Of a validator of huggingface_hub's it is what the check found wrong; an architecture that
    transformers does not know is told with its version and a way out.
    """
    while type(error).__name__.startswith("StrictDataclass") and error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    plain = type(error) is ValueError and bool(text)
    return of_text(text if plain else f"{type(error).__name__}: {text}".removesuffix(": "))


def of_text(text: str) -> str:
    """Return what a library or a process of its own has said, in one line."""
    if unknown := _UNKNOWN_TYPE.search(text):
        text = (
            f"transformers {_version('transformers')} does not know the model type"
            f" {unknown[1]!r}; install a newer one if it has that, or take another model, or a GGUF"
            " file of this one"
        )
    return one_line(text)


def one_line(text: str, limit: int = LIMIT) -> str:
    """Return a text without line breaks, its end left out if it is longer than `limit`."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
