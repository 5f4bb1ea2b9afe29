"""The settings as fields: their names in every spelling, and what may stand in each.

Knows no values: `openllm.config.effective` says what holds, and where it was given.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from openllm.config.download import DownloadOptions
from openllm.config.marks import Alias, Blanks, ByModel, ByName, Size
from openllm.config.model import LoadOptions, RequestDefaults
from openllm.config.names import flag
from openllm.config.server import ServerSettings

SECTIONS: Mapping[str, type[BaseModel]] = {
    "Server": ServerSettings,
    "Loading": LoadOptions,
    "Requests that leave it out": RequestDefaults,
    "Downloads": DownloadOptions,
}
"""Every settings model by the heading its fields have in help texts and documentation."""

OPTION_MODELS = tuple(SECTIONS.values())
MODEL_MODELS = (LoadOptions, RequestDefaults, DownloadOptions)
"""Those whose fields every served model has for itself."""

FIELDS: Mapping[str, FieldInfo] = {
    name: field for model in OPTION_MODELS for name, field in model.model_fields.items()
}
MODEL_FIELDS = tuple(name for model in MODEL_MODELS for name in model.model_fields)

ALIASES: Mapping[str, str] = {
    other: name
    for name, field in FIELDS.items()
    for mark in field.metadata
    if isinstance(mark, Alias)
    for other in mark.names
}
"""Fields by the other names that their `Alias` gives them; good wherever the field's own is."""

_USER = re.compile(r"//\S*@")


def field_name(text: str) -> str:
    """Return the field's own name for any of its spellings; an unknown one stays unknown."""
    name = text.strip().replace("-", "_")
    return ALIASES.get(name, name)


def other_names(name: str) -> tuple[str, ...]:
    """Return the further names of the field `name`."""
    return tuple(other for other, own in ALIASES.items() if own == name)


def all_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of fields, each with its further names."""
    return tuple(each for name in names for each in (name, *other_names(name)))


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the known name that `name` was probably meant to be, "" if none is close."""
    names = list(known)
    swapped = [each for each in names if sorted(each) == sorted(name)]
    close = swapped or difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return close[0] if close else ""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'" for a name close to a known one, else ""."""
    close = closest(name, known)
    return f"; did you mean {close!r}" if close else ""


def is_list(field: FieldInfo) -> bool:
    """Whether the field holds several values."""
    return get_origin(field.annotation) is tuple


def as_items(field: FieldInfo, value: object) -> object:
    """Return a single text for a field of several as one of them."""
    return (value,) if is_list(field) and isinstance(value, str) else value


def blanks_separate(field: FieldInfo) -> bool:
    """Whether blanks separate the items of the field's environment variable."""
    return any(isinstance(each, Blanks) for each in field.metadata)


def names_models(field: FieldInfo) -> bool:
    """Whether each of the field's values may say for which model it is."""
    return any(isinstance(each, ByModel) for each in field.metadata)


def takes_names(field: FieldInfo) -> bool:
    """Whether the field's values may also be given below their names."""
    return any(isinstance(each, ByName) for each in field.metadata)


def is_size(field: FieldInfo) -> bool:
    """Whether the field holds a number of bytes, which may be given with a unit."""
    return any(isinstance(each, Size) for each in field.metadata)


def is_secret(field: FieldInfo) -> bool:
    """Whether no message may show the field's value."""
    return not field.repr


def plain_type(annotation: Any) -> type:
    """Return the scalar type behind Optional, Annotated and tuple."""
    origin = get_origin(annotation)
    if origin is None:
        return annotation if isinstance(annotation, type) else str
    if origin in (Annotated, Union, types.UnionType, tuple):
        return plain_type(get_args(annotation)[0])
    return str


def choices(annotation: Any) -> tuple[str, ...]:
    """Return the values that a Literal allows; () for any other type."""
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


def flags(name: str) -> tuple[str, ...]:
    """Return the flags of a field by one of its names: two if it is true or false, else one."""
    is_switch = plain_type(FIELDS[field_name(name)].annotation) is bool
    return tuple(map(flag, (name, f"no_{name}") if is_switch else (name,)))


def is_number(field: FieldInfo) -> bool:
    """Whether the field holds a number, or several."""
    return plain_type(field.annotation) in (int, float)


def written(value: object) -> str:
    """Return a value as messages and tables show it; of an address, without user and password.

    What JSON has too is written as there, so that it looks as it does in files.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(written, value))}]"
    return _USER.sub("//...@", repr(str(value) if isinstance(value, Path) else value))
