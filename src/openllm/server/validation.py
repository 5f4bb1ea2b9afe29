"""What pydantic finds wrong, in words a caller can act on.

Every message names the field as a path (`messages[0].content`), what it must be, and the value,
shortened and in ASCII so that it can always be sent back.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from openllm.errors import InvalidRequestError, UnsupportedError

Harmless = Mapping[str, tuple[Any, ...]]
"""Names of fields, each with the values that ask for nothing; null always does."""

_MAX_SHOWN = 60
_MAX_NAME = 64


class WireModel(BaseModel):
    """Base of all request bodies: no unknown field, no coercion, no NaN.

    `unsupported` holds fields that are known but refused unless their value is harmless.
    """

    unsupported: ClassVar[Harmless] = {}

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


Model = TypeVar("Model", bound=WireModel)

_MUST_BE = {
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be an array",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
}
# Kinds whose offending value says no more than the message: its length, not its text, is wrong.
_SHOWN_BY_LENGTH = frozenset({"string_too_short", "string_too_long", "too_short", "too_long"})


def validate(model: type[Model], body: Mapping[str, Any]) -> Model:
    """Return `body` as `model`.

    Raises:
        InvalidRequestError: It does not fit; the message is about the first fault found.
    """
    supported = _without_harmless(body, model.unsupported)
    _check_names(model, supported)
    try:
        return model.model_validate(supported)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=True, include_input=True)
        raise _explain(faults[0]) from None


def fault(message: str) -> PydanticCustomError:
    """Return what a validator raises; `message` follows the path of its field."""
    # Given whole, it would be taken for a template.
    return PydanticCustomError("fault", "{message}", {"message": message})


def shorten(value: object) -> str:
    """Show a value in at most some 60 ASCII characters."""
    if isinstance(value, (list, tuple)):
        return f"an array of {len(value)} items"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str) and len(value) > _MAX_SHOWN:
        return json.dumps(value[:_MAX_SHOWN] + "...")
    return json.dumps(value, default=lambda other: type(other).__name__)


def path_of(location: Sequence[int | str]) -> str:
    """Write a location as a path; the tags of unions, written <so>, are left out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("<"):
            name = part if len(part) <= _MAX_NAME else part[:_MAX_NAME] + "..."
            path += f".{name}" if path else name
    return path.encode("ascii", "backslashreplace").decode()


def _without_harmless(body: Mapping[str, Any], unsupported: Harmless) -> dict[str, Any]:
    kept = {}
    for name, value in body.items():
        if name not in unsupported:
            kept[name] = value
        elif value is not None and not _is_one_of(value, unsupported[name]):
            raise UnsupportedError(_refusal(name, unsupported[name]), param=name)
    return kept


def _check_names(model: type[BaseModel], body: Mapping[str, Any]) -> None:
    for name in body:
        if name not in model.model_fields:
            shown = path_of((name,))
            raise InvalidRequestError(
                f"{shown} is not a known field; {_advice(model, name)}",
                param=shown,
                code="unknown_parameter",
            )


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    return any(type(value) is type(each) and value == each for each in allowed)


def _refusal(name: str, allowed: tuple[Any, ...]) -> str:
    values = " or ".join(json.dumps(each) for each in allowed)
    return f"{name} is not supported by this server; leave it out" + (
        f" or send {values}" if values else ""
    )


def _explain(fault: Mapping[str, Any]) -> InvalidRequestError:
    kind, location = fault["type"], fault["loc"]
    path = path_of(location)
    if kind == "missing":
        message = f"{path} is required"
        return InvalidRequestError(message, param=path, code="missing_required_parameter")
    if kind == "extra_forbidden":
        message = f"{path} is not a known field; leave it out"
        return InvalidRequestError(message, param=path, code="unknown_parameter")
    if kind == "none_required" or (kind == "too_long" and fault["ctx"]["max_length"] == 0):
        return UnsupportedError(f"{path} is not supported; leave it out", param=path)
    return InvalidRequestError(f"{path} {_must_be(kind, fault)}{_got(kind, fault)}", param=path)


def _must_be(kind: str, fault: Mapping[str, Any]) -> str:
    if _must_not_be_empty(fault):
        return "must not be empty"
    context = {name: _plain(value) for name, value in fault.get("ctx", {}).items()}
    return _MUST_BE[kind].format(**context) if kind in _MUST_BE else str(fault["msg"])


def _plain(value: object) -> str:
    """Write a limit or a choice of values as JSON would, not as Python."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).replace("'", '"').replace("False", "false").replace("True", "true")


def _must_not_be_empty(fault: Mapping[str, Any]) -> bool:
    return bool(fault.get("ctx", {}).get("min_length") == 1)


def _got(kind: str, fault: Mapping[str, Any]) -> str:
    if kind == "fault" or _must_not_be_empty(fault):
        return ""
    if kind in _SHOWN_BY_LENGTH:
        return f", got {fault.get('ctx', {}).get('actual_length') or len(fault['input'])}"
    return f", got {shorten(fault['input'])}"


def _advice(model: type[BaseModel], name: str) -> str:
    close = difflib.get_close_matches(name[:_MAX_NAME], model.model_fields, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else "leave it out"
