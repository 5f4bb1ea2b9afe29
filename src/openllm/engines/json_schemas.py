"""What a JSON schema may ask for, whichever engine follows it.

It knows nothing of an engine. All of them follow schemas by llguidance, which does not keep these
limits by itself: what is refused here would take minutes or gigabytes to compile, or at each step,
or end the process.
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
"""llama.cpp waits at each step 4 us for each item that is still due and 0.1 us for each that may
come; to compile a million takes 1 s, a billion all memory."""
MAX_LINKED = 1000
"""Levels that references lead through, one behind the other: each takes some 4 KB of the stack of
whichever thread compiles the schema, and 3,000 end the process."""
MAX_ITEMS = 50_000
"""All `minItems` or `maxItems` of a schema together."""
MAX_JOINED = 8
"""Patterns in a schema that joins schemas: each doubles what llguidance looks at to join them."""
MAX_MULTIPLE = 99_999
"""Digits of a `multipleOf`, as one number: llguidance makes a state for each remainder."""
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is written: free white space has no end, and weak models never leave it. Versions of
llguidance differ in whether a separator is a text or a pattern: these are both."""

_OPTIONS = "x-guidance"
_JOINING = frozenset(("$ref", "anyOf", "oneOf"))
_ALONE = frozenset(
    ("type", "title", "description", "default", "examples", "$comment", "$defs", "definitions")
)


def spaced(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with `SPACING`, as llguidance reads it at a schema's root.

    Raises:
        InvalidRequestError: It asks for too much, or is no JSON.
    """
    if _OPTIONS in schema:  # Could switch the checking of other keywords off.
        raise schema_error(f"it holds {_OPTIONS!r}, which is the engine's own; remove it")
    levels = _levels(schema)
    _check_size(schema)
    _check_links(levels)
    objects = [part for level in levels for part in level]
    _check_counts(objects)
    _check_costs(objects)
    return schema | {_OPTIONS: SPACING}


def schema_error(reason: str) -> InvalidRequestError:
    """Return the error of a schema that no text is held to; `reason` says what helps, too."""
    return InvalidRequestError(f"the JSON schema cannot be followed: {reason}", param="json_schema")


def _levels(schema: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the objects in a schema by how deep they lie; raises if some lie too deep."""
    levels = []
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        levels.append([part for part in level if isinstance(part, dict)])
        children = (part.values() if isinstance(part, dict) else part for part in level)
        level = [each for group in children for each in group if isinstance(each, (dict, list))]
    if level:
        raise schema_error(f"it is nested more than {MAX_SCHEMA_DEPTH} levels deep; flatten it")
    return levels


def _check_size(schema: dict[str, Any]) -> None:
    try:
        size = len(json.dumps(schema, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError) as error:
        raise schema_error(f"it is no JSON: {error}") from None
    if size > MAX_SCHEMA_BYTES:
        raise schema_error(f"it has {size} bytes; the limit is {MAX_SCHEMA_BYTES}")


def _check_links(levels: list[list[dict[str, Any]]]) -> None:
    """Refuse references that may lead too deep: no way through a schema meets one of them twice."""
    links = {
        name: depth
        for depth, level in enumerate(levels)
        for part in level
        if isinstance(name := part.get("$ref"), str)
    }
    total = sum(links.values())
    if total > MAX_LINKED:
        raise schema_error(
            f"its {len(links)} references may lead {total} levels deep; the limit is {MAX_LINKED}, "
            "so use fewer, or such that lie less deep"
        )


def _check_counts(objects: list[dict[str, Any]]) -> None:
    for name, limit in LARGEST.items():
        counts = [each for part in objects if isinstance(each := part.get(name), (int, float))]
        if max(counts, default=0) > limit:
            raise schema_error(f"{name} is {str(max(counts))[:24]}; it must be at most {limit}")
        total = sum(each for each in counts if each > 0)
        if total > MAX_ITEMS:
            raise schema_error(f"{name} is {total} in all; have at most {MAX_ITEMS}")


def _check_costs(objects: list[dict[str, Any]]) -> None:
    """Refuse what llguidance would work at beyond its limits: it joins patterns and multiples."""
    joins = any(map(_joins, objects))
    patterns = sum(map(_patterns, objects))
    if joins and patterns > MAX_JOINED:
        raise schema_error(
            f"it has {patterns} patterns and formats, and joins schemas by allOf, or by $ref or "
            f"anyOf beside other keywords; have at most {MAX_JOINED}, or join none"
        )
    multiples = [_digits(part["multipleOf"]) for part in objects if "multipleOf" in part]
    largest = math.lcm(*multiples) if joins else max(multiples, default=0)
    if largest > MAX_MULTIPLE:
        raise schema_error(
            f"multipleOf comes to {str(largest)[:24]}; without its point it must have 5 digits"
        )


def _digits(multiple: Any) -> int:
    """Return a number's digits as one number: 25 for 2500 and for 0.025."""
    if not isinstance(multiple, (int, float)):
        return 0
    digits = "".join(map(str, Decimal(repr(+multiple)).as_tuple().digits))
    return int(digits.rstrip("0") or "0")


def _patterns(part: dict[str, Any]) -> int:
    named = part.get("patternProperties")
    plain = sum(isinstance(part.get(name), str) for name in ("pattern", "format"))
    return plain + (len(named) if isinstance(named, dict) else 0)


def _joins(part: dict[str, Any]) -> bool:
    """Whether text has to satisfy several schemas at once because of this one."""
    keywords = part.keys() - _ALONE
    return "allOf" in part or (len(keywords) > 1 and not keywords.isdisjoint(_JOINING))
