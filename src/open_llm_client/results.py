"""What the client returns: the server's JSON, typed."""

from __future__ import annotations

from typing import Any

import msgspec


class JSONResult(msgspec.Struct, frozen=True):
    """An answer that can be turned back into the server's JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain dicts and lists."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def to_json(self) -> str:
        """Return the answer as JSON, on one line."""
        return msgspec.json.encode(self).decode()


class ChatResult(JSONResult, frozen=True):
    """A reply, and the settings it was made with; `str()` of it is the reply."""

    message: str
    configuration: dict[str, Any]

    def __str__(self) -> str:
        return self.message


class CompletionResult(JSONResult, frozen=True):
    """`n` continuations of a prompt (empty text is legal), and the settings they were made with."""

    choices: list[str]
    configuration: dict[str, Any]


class Model(JSONResult, frozen=True):
    """A model that the server serves; `str()` of it is the name that requests use."""

    id: str

    def __str__(self) -> str:
        return self.id


class Health(JSONResult, frozen=True):
    """Whether the server can answer now, and what it says about itself."""

    ready: bool
    details: dict[str, Any]
