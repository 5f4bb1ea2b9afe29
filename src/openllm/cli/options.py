"""Flags made from the fields of the settings, so that an option is written once."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from openllm.bento.options import flag

Command = TypeVar("Command", bound=Callable[..., Any])

_METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "FILE"}


def flags_of(models: Sequence[type[BaseModel]]) -> Callable[[Command], Command]:
    """Decorate a command with one flag for each field; flags left out are not passed on as values.

    Both spellings of a name are accepted, `--top-k` and `--top_k`. Values stay text here; the
    settings check them.
    """

    def decorate(command: Command) -> Command:
        for model in reversed(models):
            for name, field in reversed(model.model_fields.items()):
                command = _flag(name, field)(command)
        return command

    return decorate


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that the user gave."""
    return {name: value for name, value in values.items() if value is not None and value != ()}


def _flag(name: str, field: FieldInfo) -> Callable[[Command], Command]:
    kind = _plain_type(field.annotation)
    spellings = [flag(name)]
    if "_" in name:
        spellings.append(f"--{name}")
    text = (field.description or "") + _shown_default(field)
    if kind is bool:
        off = [flag(f"no_{name}"), f"--no_{name}"]
        both = [f"{on}/{not_on}" for on, not_on in zip(spellings, off, strict=False)]
        return click.option(*both, name, default=None, help=text)
    return click.option(
        *spellings,
        name,
        multiple=get_origin(field.annotation) is tuple,
        metavar=_choices(field.annotation) or _METAVARS.get(kind, "VALUE"),
        envvar="OPEN_LLM_API_KEY" if name == "api_key" else None,
        help=text,
    )


def _plain_type(annotation: Any) -> type:
    """Return the scalar type behind Optional, Annotated and tuple."""
    origin = get_origin(annotation)
    if origin is None:
        return annotation if isinstance(annotation, type) else str
    if origin is Annotated:
        return _plain_type(get_args(annotation)[0])
    if origin in (Union, types.UnionType, tuple):
        return _plain_type(get_args(annotation)[0])
    return str


def _choices(annotation: Any) -> str:
    if get_origin(annotation) is not Literal:
        return ""
    return f"[{'|'.join(map(str, get_args(annotation)))}]"


def _shown_default(field: FieldInfo) -> str:
    default = field.default
    if default is None or default == () or isinstance(default, bool):
        return ""
    return f" [default: {default}]"
