"""The field `response_format`: text, any JSON object, or JSON that follows a schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, JsonValue, field_validator, model_validator

from openllm.server.validation import WireModel, fault

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32


class JsonSchemaFormat(WireModel):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")
    strict: bool | None = Field(
        None, description="Accepted either way; the schema is always enforced."
    )

    @field_validator("schema_")
    @classmethod
    def _bounded(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        if value is not None:
            size = len(orjson.dumps(value))
            if size > MAX_SCHEMA_BYTES:
                raise fault(f"must have at most {MAX_SCHEMA_BYTES} bytes")
            if _depth(value) > MAX_SCHEMA_DEPTH:
                raise fault(f"must be nested at most {MAX_SCHEMA_DEPTH} levels deep")
        return value


class ResponseFormat(WireModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @field_validator("json_schema")
    @classmethod
    def _belongs(cls, value: JsonSchemaFormat | None, info: Any) -> JsonSchemaFormat | None:
        if value is not None and info.data.get("type") in ("text", "json_object"):
            raise fault('is only allowed with type "json_schema"')
        return value

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise fault('needs json_schema when its type is "json_schema"')
        return self


def _depth(value: JsonValue) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [child for each in level for child in _children(each)]
    return depth


def _children(value: JsonValue) -> list[JsonValue]:
    if isinstance(value, dict):
        value = [*value.values()]
    if not isinstance(value, list):
        return []
    return [child for child in value if isinstance(child, (dict, list))]
