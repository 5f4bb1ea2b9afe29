"""What one source of settings says, before anybody has checked the values."""

from __future__ import annotations

import re
from typing import NamedTuple


class Given(NamedTuple):
    """A value as somebody wrote it.

    Attributes:
        origin: Where, as messages name it: "--port", "OPEN_LLM_PORT", "a.yaml, line 3: port".
    """

    value: object
    origin: str


Values = dict[str, Given]
"""By the field's own name."""


class Layer(NamedTuple):
    """The values of one source: for the server and every model, and for single models.

    `models` is by `model_key` of their names.
    """

    general: Values
    models: dict[str, Values]

    def of(self, key: str) -> Values:
        """Return the values of one model alone, to be changed."""
        return self.models.setdefault(key, {})


def model_key(name: str) -> str:
    """Return a model's name as variables have it; names that differ in "-" and "_" are one."""
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def empty() -> Layer:
    return Layer({}, {})


def put(values: Values, name: str, given: Given, mistakes: list[str]) -> None:
    """Add a value; the same field given twice in one source is a mistake."""
    if name in values and values[name].value != given.value:
        first = values[name].origin
        same = first == given.origin
        both = (
            f"{first} is given twice" if same else f"{given.origin} and {first} set the same option"
        )
        mistakes.append(f"{both}; leave one out")
    values[name] = given
