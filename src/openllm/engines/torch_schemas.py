"""JSON schemas within the limits that llguidance does not keep by itself.

It knows nothing of an engine: what is refused here would take minutes or gigabytes to compile.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

from openllm.errors import InvalidRequestError

MAX_SCHEMA_BYTES = 64 << 10
MAX_SCHEMA_DEPTH = 32
LARGEST = {"minItems": 1000, "maxItems": 10_000}
"""Every item that is due costs time at each step, every item memory: a billion takes all."""
MAX_ITEMS = 50_000
"""All `minItems` or `maxItems` of a schema together."""
MAX_JOINED = 8
"""Patterns in a schema that joins schemas: each doubles what llguidance looks at to join them."""
MAX_MULTIPLE = 99_999
"""Digits of a `multipleOf`, as one number: llguidance makes a state for each remainder."""

_JOINING = frozenset(("$ref", "anyOf", "oneOf"))
_ALONE = frozenset(
    ("type", "title", "description", "default", "examples", "$comment", "$defs", "definitions")
)


def checked(schema: dict[str, Any]) -> str:
    """Return the schema as JSON; raises `InvalidRequestError` if it asks for too much."""
    if "x-guidance" in schema:  # Could switch the checking of other keywords off.
        raise _refused("it holds 'x-guidance', which is the engine's own; remove it")
    objects = _objects(schema)
    for name, limit in LARGEST.items():
        counts = [each for part in objects if isinstance(each := part.get(name), (int, float))]
        if max(counts, default=0) > limit:
            raise _refused(f"{name} is {max(counts)}; it must be at most {limit}")
        if sum(counts) > MAX_ITEMS:
            raise _refused(f"{name} is {sum(counts)} in all; have at most {MAX_ITEMS}")
    _check_costs(objects)
    try:
        text = json.dumps(schema, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except (TypeError, ValueError) as error:
        raise _refused(f"it is no JSON: {error}") from None
    if size > MAX_SCHEMA_BYTES:
        raise _refused(f"it has {size} bytes; the limit is {MAX_SCHEMA_BYTES}")
    return text


def _check_costs(objects: list[dict[str, Any]]) -> None:
    """Refuse what llguidance would work at beyond its limits: it joins patterns and multiples."""
    joins = any(map(_joins, objects))
    patterns = sum(map(_patterns, objects))
    if joins and patterns > MAX_JOINED:
        raise _refused(
            f"it has {patterns} patterns and formats, and joins schemas by allOf, or by $ref or "
            f"anyOf beside other keywords; have at most {MAX_JOINED}, or join none"
        )
    multiples = [_digits(part["multipleOf"]) for part in objects if "multipleOf" in part]
    largest = math.lcm(*multiples) if joins else max(multiples, default=0)
    if largest > MAX_MULTIPLE:
        raise _refused(f"multipleOf comes to {largest}; without its point it must have 5 digits")


def _digits(multiple: Any) -> int:
    """Return a number's digits as one number: 25 for 2500 and for 0.025."""
    if not isinstance(multiple, (int, float)) or not math.isfinite(multiple):
        return 0
    return int("".join(map(str, Decimal(repr(float(multiple))).normalize().as_tuple().digits)))


def _objects(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every object in a schema; raises `InvalidRequestError` if it is nested too deep."""
    objects = []
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        objects += [part for part in level if isinstance(part, dict)]
        children = (part.values() if isinstance(part, dict) else part for part in level)
        level = [each for group in children for each in group if isinstance(each, (dict, list))]
    if level:
        raise _refused(f"it is nested more than {MAX_SCHEMA_DEPTH} levels deep; flatten it")
    return objects


def _patterns(part: dict[str, Any]) -> int:
    named = part.get("patternProperties")
    plain = sum(isinstance(part.get(name), str) for name in ("pattern", "format"))
    return plain + (len(named) if isinstance(named, dict) else 0)


def _joins(part: dict[str, Any]) -> bool:
    """Whether text has to satisfy several schemas at once because of this one."""
    keywords = part.keys() - _ALONE
    return "allOf" in part or (len(keywords) > 1 and not keywords.isdisjoint(_JOINING))


def _refused(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"the JSON schema cannot be followed: {reason}", param="json_schema")
