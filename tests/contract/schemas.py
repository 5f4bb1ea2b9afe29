"""JSON schemas for tests of structured output.

    BOUNDED      every text that follows one is short, so any model must come to its end
    OPEN         some text that follows one has no end, so the token limit may cut it
    DEMANDING    what an engine may leave out if it says so, by the name of the keyword
    EXCESSIVE    what would take an engine minutes, gigabytes or its life, with the reason given

A property that is not said to be required is optional, and an object takes no others.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

BOOLEAN: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}
DIGIT: Schema = {"type": "integer", "minimum": 0, "maximum": 9}
WORD: Schema = {"type": "string", "maxLength": 8}
COLOUR: Schema = {"enum": ["red", "green", "blue"]}


def record(_required: tuple[str, ...] | None = None, **properties: Any) -> Schema:
    """Return the schema of an object; all its properties are required unless some are named."""
    required = list(properties if _required is None else _required)
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": required} if required else {})


def integer(**limits: int) -> Schema:
    return {"type": "integer", **limits}


def text(**limits: Any) -> Schema:
    return {"type": "string", **limits}


def array(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items, **limits}


PERSON = record(
    name=text(minLength=1, maxLength=12),
    age=integer(minimum=0, maximum=120),
    colour=COLOUR,
    tags=array({"enum": ["a", "b", "c"]}, maxItems=3),
)
CIRCLE = record(kind={"const": "circle"}, radius=DIGIT)
NOTE = record(kind={"const": "note"}, text=WORD)

BOUNDED: dict[str, Schema] = {
    "boolean": BOOLEAN,
    "null": NULL,
    "digit": DIGIT,
    "integer of either sign": integer(minimum=-20, maximum=20),
    "negative integer": integer(minimum=-99, maximum=-10),
    "integer beyond bounds": integer(exclusiveMinimum=3, exclusiveMaximum=6),
    "one integer": integer(minimum=7, maximum=7),
    "wide integer": integer(minimum=-(10**9), maximum=10**9),
    "short string": text(maxLength=8),
    "empty string": text(maxLength=0),
    "string of a length": text(minLength=3, maxLength=3),
    "long string": text(minLength=20, maxLength=40),
    "pattern": text(pattern="^[A-Z]{2}[0-9]{3}$"),
    "pattern of alternatives": text(pattern="^(cat|dog|bird)s?$"),
    "pattern of escapes": text(pattern="^\\d\\d:\\d\\d$"),
    "pattern of escaped signs": text(pattern='^["/][\\\\a]$'),
    "enum": COLOUR,
    "enum of emoji": {"enum": ["👍", "👩‍👩‍👧‍👦", "🚲"]},
    "enum of accents": {"enum": ["naïve", "日本語", "Ελλάδα"]},
    "enum of control characters": {"enum": ["a\nb", "tab\there", 'quote"', "back\\slash", "\x01"]},
    "enum of several types": {"enum": [1, "1", True, None, 2.5]},
    "enum of objects": {"enum": [{"a": 1}, {"a": [1, 2], "b": None}]},
    "enum of one": {"enum": ["only"]},
    "enum of many": {"enum": [f"value {at}" for at in range(200)]},
    "const": {"const": "fixed"},
    "const number": {"const": 42},
    "const object": {"const": {"a": [1, "x", None], "b": {"c": True}}},
    "empty object": record(),
    "record": PERSON,
    "optional properties": record((), a=BOOLEAN, b=BOOLEAN, c=NULL),
    "some properties required": record(("b",), a=BOOLEAN, b=DIGIT, c=COLOUR),
    "odd names": record(**{"a b": BOOLEAN, 'quo"te': BOOLEAN, "日本": BOOLEAN, "": BOOLEAN}),
    "nested": record(a=record(b=record(c=BOOLEAN, d=NULL))),
    "array": array(DIGIT, maxItems=5),
    "array of a length": array(BOOLEAN, minItems=3, maxItems=3),
    "empty array": array(DIGIT, maxItems=0),
    "array of records": array(record(id=DIGIT, ok=BOOLEAN), minItems=2, maxItems=3),
    "array of arrays": array(array(DIGIT, minItems=2, maxItems=2), minItems=2, maxItems=2),
    "anyOf": {"anyOf": [BOOLEAN, DIGIT, WORD]},
    "anyOf of records": {"anyOf": [CIRCLE, NOTE]},
    "record or null": record(next={"anyOf": [CIRCLE, NULL]}),
    "list of types": {"type": ["boolean", "null"]},
    "reference": {"$defs": {"colour": COLOUR}, **record(x={"$ref": "#/$defs/colour"}, y=BOOLEAN)},
    "reference at the root": {"$defs": {"circle": CIRCLE}, "$ref": "#/$defs/circle"},
    "old definitions": {"definitions": {"d": DIGIT}, **record(d={"$ref": "#/definitions/d"})},
    "notes": {"title": "T", "description": "D", **record(a={**BOOLEAN, "description": "d"})},
}

LINKED = {
    "$defs": {"node": record(value=DIGIT, next={"anyOf": [{"$ref": "#/$defs/node"}, NULL]})},
    "$ref": "#/$defs/node",
}
TREE = {
    "$defs": {"tree": record(children=array({"$ref": "#/$defs/tree"}, maxItems=2))},
    "$ref": "#/$defs/tree",
}

OPEN: dict[str, Schema] = {
    "any object": {"type": "object"},
    "any value": {},
    "any string": text(),
    "any integer": integer(),
    "any number": {"type": "number"},
    "number between": {"type": "number", "minimum": -1.5, "maximum": 2.5},
    "record with text": record(title=text(), done=BOOLEAN),
    "list of texts": array(text(), maxItems=3),
    "list without end": array(COLOUR),
    "open object": {"type": "object", "properties": {"ok": BOOLEAN}, "required": ["ok"]},
    "map": {"type": "object", "additionalProperties": DIGIT},
    "linked list": LINKED,
    "tree": TREE,
    "open pattern": text(pattern="^[a-z]+@[a-z]+\\.com$"),
}

DEMANDING: dict[str, Schema] = {
    "uniqueItems": array({"enum": [1, 2]}, minItems=2, maxItems=2) | {"uniqueItems": True},
    "contains": array(DIGIT, minItems=1, maxItems=2) | {"contains": {"const": 7}},
    "not": {"enum": ["a", "b", "c"], "not": {"const": "a"}},
    "if": record(a=BOOLEAN, b=BOOLEAN)
    | {
        "if": {"properties": {"a": {"const": True}}},
        "then": {"properties": {"b": {"const": False}}},
    },
    "dependentRequired": record((), a=NULL, b=NULL) | {"dependentRequired": {"b": ["a"]}},
    "propertyNames": {
        "type": "object",
        "additionalProperties": NULL,
        "propertyNames": {"enum": ["x", "y"]},
    },
    "multipleOf": integer(minimum=0, maximum=99, multipleOf=7),
    "allOf": {"allOf": [integer(minimum=3, maximum=99), integer(minimum=0, maximum=5)]},
    "oneOf": {"oneOf": [CIRCLE, NOTE]},
    "minProperties": record((), a=NULL, b=NULL, c=NULL) | {"minProperties": 2},
    "patternProperties": {
        "type": "object",
        "patternProperties": {"^x[0-9]$": BOOLEAN},
        "additionalProperties": False,
    },
    "prefixItems": {
        "type": "array",
        "prefixItems": [COLOUR, DIGIT],
        "items": False,
        "minItems": 2,
    },
    "pattern": text(pattern='^"[a-c]\\\\"$'),
    "format": record(day=text(format="date"), address=text(format="ipv4"), id=text(format="uuid")),
}


def nested(depth: int) -> Schema:
    schema = NULL
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def chain(length: int) -> Schema:
    links = {str(at): {"items": {"$ref": f"#/$defs/{at + 1}"}} for at in range(length)}
    return {"$ref": "#/$defs/0", "$defs": {**links, str(length): NULL}}


def searches(count: int) -> list[Schema]:
    return [text(pattern=f".*a.{{{at}}}b") for at in range(count)]


EXCESSIVE: dict[str, tuple[Schema, str]] = {
    "depth": (nested(32), "it is nested more than 32 levels deep; flatten it"),
    "size": ({"const": "x" * 70_000}, "it has 70013 bytes; the limit is 65536"),
    "references": (chain(1000), "its 1001 references may lead 3000 levels deep"),
    "minItems": (array(NULL, minItems=10**9), "minItems is 1000000000; it must be at most 1000"),
    "maxItems": (
        {"anyOf": [array(NULL, maxItems=10_001)]},
        "maxItems is 10001; it must be",
    ),
    "items in all": (
        {"prefixItems": [array(NULL, maxItems=9999)] * 6, "default": {"maxItems": -60_000}},
        "maxItems is 59994 in all; have at most 50000",
    ),
    "joined patterns": ({"allOf": searches(40)}, "it has 40 patterns and formats, and joins"),
    "properties of joined patterns": (
        {"allOf": [{"properties": {"a": each}} for each in searches(9)]},
        "it has 9 patterns and formats, and joins",
    ),
    "multipleOf": (integer(multipleOf=99_999_989), "multipleOf comes to 99999989;"),
    "vast multipleOf": (integer(multipleOf=10**400 + 1), "multipleOf comes to 1000000000"),
    "joined multiples": (
        {"allOf": [{"multipleOf": 3.07}, {"multipleOf": 509}]},
        "multipleOf comes to 156263;",
    ),
    "options": ({"uniqueItems": True, "x-guidance": {"lenient": True}}, "it holds 'x-guidance'"),
    "not a number": ({"const": float("nan")}, "it is no JSON: "),
    "half a character": ({"const": "\ud800"}, "it is no JSON: "),
}
