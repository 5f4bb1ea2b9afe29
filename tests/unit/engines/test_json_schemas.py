"""What a JSON schema may ask for: what is within the limits passes as it is."""

from __future__ import annotations

import time
from typing import Any

import pytest

from openllm.engines.json_schemas import MAX_LINKED, MAX_SCHEMA_BYTES, SPACING, spaced
from openllm.errors import InvalidRequestError
from tests.contract.schemas import BOUNDED, DEMANDING, EXCESSIVE, OPEN, chain, nested, searches

MODERATE: dict[str, dict[str, Any]] = {
    "depth": nested(31),
    "size": {"const": "x" * (MAX_SCHEMA_BYTES - 13)},
    "references": chain(MAX_LINKED // 3 - 1),
    "one reference often": {"items": {"anyOf": [{"$ref": "#/$defs/a"}] * 900}, "$defs": {"a": {}}},
    "a recursive reference": {"properties": {"next": {"$ref": "#"}}},
    "counts": {"minItems": 1000, "maxItems": 10_000},
    "counts in all": {"prefixItems": [{"maxItems": 10_000}] * 5},
    "words for counts": {"properties": {"maxItems": {"type": "null"}}},
    "patterns that are not joined": {"anyOf": searches(40)},
    "joined patterns": {"allOf": searches(8)},
    "multipleOf": {"multipleOf": 99_999},
    "multipleOf of few digits": {"anyOf": [{"multipleOf": 1e300}, {"multipleOf": 0.00025}]},
    "no number": {"anyOf": [{"multipleOf": "7"}, {"multipleOf": True}, {"minItems": None}]},
    "joined multiples": {"allOf": [{"multipleOf": 250}, {"multipleOf": 0.3}]},
}


@pytest.mark.parametrize("schema", [*MODERATE.values(), *BOUNDED.values(), *OPEN.values(),
                                    *DEMANDING.values()])  # fmt: skip
def test_what_is_within_the_limits_passes(schema: dict[str, Any]) -> None:
    before = repr(schema)
    assert spaced(schema) == schema | {"x-guidance": SPACING}
    assert repr(schema) == before


@pytest.mark.reliability("S-18")
@pytest.mark.parametrize("name", EXCESSIVE)
def test_what_asks_for_too_much_is_refused_soon(name: str) -> None:
    schema, reason = EXCESSIVE[name]
    began = time.process_time()
    with pytest.raises(InvalidRequestError) as caught:
        spaced(schema)
    assert time.process_time() - began < 1.0
    assert caught.value.message.startswith(f"the JSON schema cannot be followed: {reason}")
    assert caught.value.param == "json_schema"
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("number", [10**400 + 1, 10**5000 + 1], ids=["long", "longer"])
@pytest.mark.parametrize("name", ["minItems", "maxItems", "multipleOf"])
def test_a_number_of_any_length_is_refused_in_few_words(name: str, number: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        spaced({"items": {name: number}})
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("value", [{1}, b"x", object()], ids=["set", "bytes", "object"])
def test_what_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequestError, match="it is no JSON"):
        spaced({"const": value})


def test_a_schema_without_a_bottom_is_refused() -> None:
    schema: dict[str, Any] = {}
    schema["items"] = schema
    with pytest.raises(InvalidRequestError, match="32 levels"):
        spaced(schema)
