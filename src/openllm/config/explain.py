"""What is wrong with a setting, in the house's words: where it stands, its value, what is right.

The one place that knows the errors of pydantic. A field's JSON schema says what is right, so that
no field needs words of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from openllm.config.fields import is_list, is_secret, written
from openllm.config.marks import Size

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_IN_FILE = re.compile(r"([^:]*), line (\d+): ")

_FORMS = {"^[0-9a-fA-F]{64}$": "64 hexadecimal digits"}
"""What patterns mean."""

_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list",
}


def together(mistakes: Iterable[str]) -> str:
    """Return one message for all mistakes, each once: a line if it is one, else a list.

    Those in files come last, in the order of their lines.
    """
    told = sorted(dict.fromkeys(mistakes), key=_position)
    if len(told) == 1:
        return told[0]
    return "\n".join((f"{len(told)} settings are wrong:", *(f"- {each}" for each in told)))


def explain(model: type[BaseModel], error: ErrorDetails, origin: str) -> str:
    """Say where a value was given, the value unless it is a secret, and what is allowed."""
    own_words = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return f"{origin}: {own_words}"
    name = str(error["loc"][0])
    value = error["input"]
    if error["type"] == "value_error" or not allowed(model, name):
        return f"{_subject(model, name, value, origin)}: {own_words}"
    return refusal(model, name, value, origin)


def refusal(model: type[BaseModel], name: str, value: object, origin: str) -> str:
    """Say that `value` is none for the field `name`, and what would be one."""
    right = allowed(model, name)
    if right.startswith("text") and isinstance(value, (bool, int, float)):
        right += ", in quotes"
    return f"{_subject(model, name, value, origin)} must be {right}"


def allowed(model: type[BaseModel], name: str) -> str:
    """Put into words what a field takes, each item of it if it takes several."""
    schema = _properties(model)[name]
    kinds = schema.get("anyOf", [schema])
    schema = next(kind for kind in kinds if kind.get("type") != "null")
    schema = schema.get("items", schema)
    if schema.get("format") == Size.FORMAT:
        return "a number of bytes, or a size such as 4GiB or 10GB" + _limits(schema)
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    kind = _KINDS.get(schema.get("type", ""), "")
    if "pattern" in schema:
        return _FORMS.get(schema["pattern"], f"{kind} of the form {schema['pattern']}")
    if schema.get("minLength"):
        return f"{kind} that is not empty"
    return kind + _limits(schema)


def _position(mistake: str) -> tuple[str, int]:
    found = _IN_FILE.match(mistake)
    return (found[1], int(found[2])) if found else ("", 0)


@cache
def _properties(model: type[BaseModel]) -> dict[str, Any]:
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    return properties


def _subject(model: type[BaseModel], name: str, value: object, origin: str) -> str:
    field = model.model_fields[name]
    if is_secret(field):
        return origin
    if is_list(field) and isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    shown = written(value)
    return f"{origin} {shown if len(shown) <= 200 else shown[:200] + '...'}"


def _limits(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    if low is not None:
        return f", {low:g} or more"
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']:g} and finite"
    return ""
