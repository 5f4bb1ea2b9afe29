"""The raw scan must agree with the parser on every document, and bound those it is to bound."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openllm.errors import InvalidRequestError
from openllm.server import strict_json
from openllm.server.strict_json import parse_object

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=8,
)
few = settings(max_examples=50, deadline=None)


@pytest.mark.reliability("F-16", "F-17")
@few
@given(st.dictionaries(TEXTS, VALUES), st.booleans())
def test_every_honest_object_is_parsed(value: dict[str, Any], ascii_only: bool) -> None:
    for indent in (None, 1):
        raw = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
        assert parse_object(raw) == value


@few
@given(st.text(st.sampled_from('"\\{}[]:,u0n '), max_size=40))
def test_structure_inside_strings_does_not_count(text: str) -> None:
    assert parse_object(json.dumps({"a": text, text + "x": [text]}).encode())["a"] == text


@few
@given(st.binary())
def test_any_bytes_are_parsed_or_refused(raw: bytes) -> None:
    try:
        value = parse_object(raw)
    except InvalidRequestError:
        return
    assert isinstance(value, dict)


@pytest.mark.parametrize("raw", [b'{"a":1,"a":1}', b'{"a":1,"\\u0061":2}', b'{"":1,"":2}'])
def test_a_field_named_twice(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="a field twice"):
        parse_object(raw)


@pytest.mark.reliability("F-16")
@pytest.mark.parametrize(
    ("name", "fits", "too_much"),
    [
        ("MAX_DEPTH", b'{"a":[[1]]}', b'{"a":[[[1]]]}'),
        ("MAX_STRINGS", b'{"a":["b","c"]}', b'{"a":["b","c","d"]}'),
        ("MAX_CONTAINERS", b'{"a":[[1]]}', b'{"a":[[1],[]]}'),
        ("MAX_VALUES", b'{"a":[1,2,3,4]}', b'{"a":[1,2,3,4,5]}'),
        ("MAX_FIELDS", b'{"a":1,"b":1,"c":1}', b'{"a":1,"b":1,"c":1,"d":1}'),
        ("MAX_ESCAPES", b'{"a":"\\n\\n\\n"}', b'{"a":"\\n\\n\\n\\n"}'),
    ],
)
def test_limit_and_one_more(
    monkeypatch: pytest.MonkeyPatch, name: str, fits: bytes, too_much: bytes
) -> None:
    monkeypatch.setattr(strict_json, name, 3)
    parse_object(fits)
    with pytest.raises(InvalidRequestError):
        parse_object(too_much)
