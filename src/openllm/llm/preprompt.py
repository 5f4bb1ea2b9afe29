"""The pre-prompt of `--prompt`: text put before every conversation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from openllm.config.given_file import content_of
from openllm.errors import ConfigurationError
from openllm.types import Message

_PATH = re.compile(r"(?:/|\.{1,2}/|~/)(?:\S*|.*\.[A-Za-z0-9]{1,5})")
_LIKE_A_PATH = re.compile(r"\S*/\S*|\S*\.[A-Za-z0-9]{1,5}")


def preprompt_text(value: str | None) -> str:
    """Return the content of the file that `value` names, or `value` itself if there is none.

    Raises:
        ConfigurationError: There is such a file and it cannot be read as UTF-8 text, or there is
            none and `value` has the form of a path.
    """
    if not value or not _is_file(value):
        if value and _PATH.fullmatch(value):
            raise ConfigurationError(
                f"there is no prompt file {value[:200]!r}; correct the path, or put a blank before"
                " it if these words are the prompt",
                param="prompt",
            )
        return value or ""
    try:
        return content_of(Path(value).expanduser()).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the prompt file {value!r} cannot be read as UTF-8 text: {error}", param="prompt"
        ) from error


def is_like_a_file(value: str | None) -> bool:
    """Whether a prompt that no file is named by could have been meant as the name of one."""
    if not value or _is_file(value):
        return False
    return _LIKE_A_PATH.fullmatch(value) is not None


def _is_file(value: str) -> bool:
    """Whether `value` names a file or, as `<(command)` makes one, a pipe."""
    try:
        path = Path(value).expanduser()
        return path.is_file() or path.is_fifo()
    except (OSError, ValueError, RuntimeError):  # Too long a name, NUL, or no such home: a text.
        return False


def with_preprompt(messages: Sequence[Message], preprompt: str) -> Sequence[Message]:
    """Put the pre-prompt before the conversation's own system message, or make it one."""
    if not preprompt:
        return messages
    if messages and messages[0].role in ("system", "developer"):
        first = replace(messages[0], content=f"{preprompt}\n\n{messages[0].content}")
        return (first, *messages[1:])
    return (Message(role="system", content=preprompt), *messages)
