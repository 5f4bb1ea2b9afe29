"""Marks that a settings field carries in `Annotated`, beside its type and its limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from openllm.sizes import read_size


class Alias:
    """Gives a field further names, good wherever its own is: as a flag, a variable, in a file."""

    def __init__(self, *names: str) -> None:
        """Take the names as Python writes them, such as `max_model_len`."""
        self.names = names


class Blanks:
    """Marks a list whose items have no blanks: they separate them in the environment."""


class ByModel:
    """Marks a field whose values may name models, as in `llama:gpu:0,demo:cpu`; one value for each.

    Its flag may be repeated, and a variable or a file has a list.
    """


class ByName:
    """Marks a list of NAME=VALUE, which a file and Python code may also give as names with values.

    A value without a name has the name "" there.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core.core_schema import no_info_before_validator_function

        return no_info_before_validator_function(_named, handler(source))


class Size:
    """Marks a number of bytes, which may also be written as a size: 4GiB, 10GB, 500MB."""

    FORMAT = "size"
    """What the JSON schema calls it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core.core_schema import no_info_before_validator_function

        return no_info_before_validator_function(_bytes, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        found = handler(schema)
        for kind in found.get("anyOf", [found]):
            if kind.get("type") == "integer":
                kind.update(type=["integer", "string"], format=self.FORMAT)
        return found


def _named(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    for name, each in value.items():
        if not isinstance(each, (str, os.PathLike)):
            told = f"{name!r} has {each!r}; give a text, as in {{NAME: VALUE}}"
            raise ValueError(told)  # noqa: TRY004 (pydantic makes no message of a TypeError)
    return tuple(f"{name}={each}" if name else str(each) for name, each in value.items())


def _bytes(value: Any) -> Any:
    return read_size(value) if isinstance(value, str) else value
