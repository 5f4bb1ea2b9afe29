"""The settings described for programs and people: a JSON schema of the file, and tables of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from openllm.config.explain import allowed
from openllm.config.fields import (
    FIELDS,
    MODEL_MODELS,
    OPTION_MODELS,
    SECTIONS,
    all_names,
    flags,
    is_list,
    names_models,
    takes_names,
)
from openllm.config.names import variable

_MODEL_TEXT = {
    "type": "string",
    "description": "A model as the command line takes it; the name above it if left out.",
}


def file_schema() -> dict[str, Any]:
    """Return the JSON schema of the configuration file."""
    own = [fields for model in MODEL_MODELS for fields in _properties(model)]
    section = _object({"model": _MODEL_TEXT, **dict(own)})
    models = {
        "description": "What is served: names with options, a list, or a text with commas.",
        "anyOf": [
            {
                "type": "object",
                "additionalProperties": {"anyOf": [section, {"type": ["string", "null"]}]},
            },
            {"type": "array", "items": {"type": "string"}},
            {"type": "string"},
        ],
    }
    everything = [
        (name, _by_model(schema) if names_models(FIELDS[name]) else schema)
        for model in OPTION_MODELS
        for name, schema in _properties(model)
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of openllm start",
        **_object({"models": models, **dict(everything)}),
    }


def docs_tables() -> str:
    """Return the tables of docs/configuration.md, one for each group of settings."""
    return "\n".join(line for title, model in SECTIONS.items() for line in _table(title, model))


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _properties(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    for name, schema in properties.items():
        schema.pop("title", None)
        if is_list(model.model_fields[name]):
            kinds = [schema, schema["items"]]
            if takes_names(model.model_fields[name]):
                kinds.append({"type": "object", "additionalProperties": schema["items"]})
            schema = {
                "anyOf": kinds,
                "description": schema.pop("description", ""),
                "default": schema.pop("default", []),
            }
        yield name, schema


def _by_model(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field that names models, for where it is for all of them."""
    several = {"type": "array", "items": {"type": "string"}}
    return {**schema, "anyOf": [*schema["anyOf"], several]}


def _table(title: str, model: type[BaseModel]) -> Iterator[str]:
    yield from (f"### {title}", "")
    yield from (
        "| option | flag | variable | takes | default | meaning |",
        "|---|---|---|---|---|---|",
    )
    for name, field in model.model_fields.items():
        several = is_list(field) or names_models(field)
        takes = allowed(model, name) + ("; a list" if several else "")
        cells = (
            f"`{name}`",
            ", ".join(f"`{each}`" for other in all_names((name,)) for each in flags(other)),
            f"`{variable(name)}`",
            takes,
            _default(field),
            field.description or "",
        )
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.default_factory is not None or default is None or default == ():
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
