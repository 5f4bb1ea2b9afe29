"""From loose options, as flags or keyword arguments give them, to checked settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from openllm.config.model import LoadOptions, ModelConfig, RequestDefaults
from openllm.config.server import ServerSettings
from openllm.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Settings = TypeVar("Settings", bound=BaseModel)

OPTION_MODELS: tuple[type[BaseModel], ...] = (ServerSettings, LoadOptions, RequestDefaults)

_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
}


def split_options(options: Mapping[str, object]) -> tuple[ServerSettings, ModelConfig]:
    """Check every option against the field of its name; options left out take their defaults.

    Raises:
        ConfigurationError: Names the option, its value and what is allowed; all mistakes at once.
    """
    known = [name for model in OPTION_MODELS for name in model.model_fields]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigurationError(f"unknown option {name!r}{hint}", param=name)
    mistakes: list[str] = []
    server = _build(ServerSettings, options, mistakes)
    load = _build(LoadOptions, options, mistakes)
    defaults = _build(RequestDefaults, options, mistakes)
    if server is None or load is None or defaults is None:
        raise ConfigurationError("; ".join(mistakes))
    return server, ModelConfig(load=load, defaults=defaults)


def flag(name: str) -> str:
    """Return how the command line spells the option `name`."""
    return "--" + name.replace("_", "-")


def _build(
    model: type[Settings], options: Mapping[str, object], mistakes: list[str]
) -> Settings | None:
    """Return the settings, or None and what is wrong with them in `mistakes`."""
    given = {name: options[name] for name in model.model_fields if name in options}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        mistakes += [_explain(model, each) for each in error.errors(include_url=False)]
        return None


def _explain(model: type[BaseModel], error: ErrorDetails) -> str:
    """Say in our words which option is wrong, its value unless it is a secret, and what is right.

    The field's JSON schema says what is right, so that no field needs words of its own.
    """
    own_words = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return own_words
    name = str(error["loc"][0])
    subject = flag(name)
    if model.model_fields[name].repr:
        value = error["input"]
        subject += f" {(str(value) if isinstance(value, Path) else value)!r}"
    allowed = _allowed(model.model_json_schema()["properties"][name])
    if error["type"] == "value_error" or not allowed:
        return f"{subject}: {own_words}"
    return f"{subject} must be {allowed}"


def _allowed(schema: dict[str, Any]) -> str:
    """Put a field's JSON schema into words; "" if there are none for it."""
    kinds = schema.get("anyOf", [schema])
    schema = next(kind for kind in kinds if kind.get("type") != "null")
    schema = schema.get("items", schema)
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    kind = _KINDS.get(schema.get("type", ""), "")
    if schema.get("minLength"):
        return f"{kind} that is not empty"
    return kind + _limits(schema)


def _limits(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    if low is not None:
        return f", {low:g} or more"
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']:g} and finite"
    return ""
