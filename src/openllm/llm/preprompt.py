"""The pre-prompt of `--prompt`: text put before every conversation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from openllm.errors import ConfigurationError
from openllm.types import Message


def preprompt_text(value: str | None) -> str:
    """Return the content of the file that `value` names, or `value` itself if there is none.

    Raises:
        ConfigurationError: There is such a file and it cannot be read as UTF-8 text.
    """
    if not value or not _is_file(value):
        return value or ""
    try:
        return Path(value).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the prompt file {value!r} cannot be read as UTF-8 text: {error}", param="prompt"
        ) from error


def _is_file(value: str) -> bool:
    try:
        return Path(value).expanduser().is_file()
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
