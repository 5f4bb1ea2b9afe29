"""A text that names several models, taken apart at its commas."""

from __future__ import annotations

import re

from openllm.errors import ConfigurationError

SEPARATOR = ", "
"""Between models that were given apart: no URL has the blank, so that none is taken for one."""

_URL = re.compile(r"(?:[^/=]*=)?https?://(?:[^/?]*@)?([^?]*)(\?.*)?", re.IGNORECASE | re.DOTALL)


def split_models(text: str) -> list[str]:
    """Return the models that `text` names; "" stands for an entry that is empty.

    They are separated by commas. A URL may have commas of its own: one separates it from the next
    model only behind `.gguf`, with which the path of a model's URL ends, or before a blank.

    Raises:
        ConfigurationError: A comma in the query of a URL may be either.
    """
    entries: list[str] = []
    for part in text.split(","):
        if entries and not part[:1].isspace() and _goes_on(entries[-1].strip()):
            entries[-1] += f",{part}"
        else:
            entries.append(part)
    return [entry.strip() for entry in entries]


def _goes_on(entry: str) -> bool:
    """Whether the comma behind `entry` is part of a URL that began there."""
    url = _URL.fullmatch(entry)
    if url is None:
        return False
    path, query = url.groups()
    if query is not None:  # Which may hold a secret, and is not shown.
        raise ConfigurationError(
            f"the URL of {path.rpartition('/')[2]!r} has a comma behind its '?', which may be its"
            " own or separate two models; write %2C if it is its own, or else a blank behind it"
        )
    return not path.lower().endswith(".gguf")
