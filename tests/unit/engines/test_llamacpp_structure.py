"""JSON schemas and grammars hold, and those that cannot hold are refused by name."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import pytest

from openllm.engines.llamacpp_engine import LlamaCppEngine
from openllm.engines.llamacpp_schemas import check_patterns
from openllm.errors import InvalidRequestError
from tests.unit.engines.llamas import greedy, say, say_all
from tests.waiting import until

pytestmark = pytest.mark.anyio

COLOURS = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue", "🚲"]}, "big": {"type": "boolean"}},
    "required": ["colour", "big"],
    "additionalProperties": False,
}
TIGHT = 'root ::= "{" "\\"a\\":" [0-9] "}"'


@pytest.mark.spec("S3-25")
async def test_output_follows_a_schema_and_ends(llama: LlamaCppEngine) -> None:
    for seed in range(12):
        said = await say(llama, json_schema=COLOURS, max_tokens=64, seed=seed, temperature=0.3)
        assert said.finish == ["stop"]
        value = json.loads(said.text)
        assert value["colour"] in ("red", "blue", "🚲")
        assert isinstance(value["big"], bool)


async def test_logprobs_under_a_schema_are_the_model_s_own(llama: LlamaCppEngine) -> None:
    said = await say(llama, json_schema=COLOURS, max_tokens=64, temperature=0.0, logprobs=2)
    assert all(-50 < each.logprob < 0 for each in said.logprobs)
    never = await llama.tokenize("\n", special=False)
    assert all(top.token_id not in never for each in said.logprobs[1:] for top in each.top)


async def test_output_follows_a_grammar(llama: LlamaCppEngine) -> None:
    for seed in range(6):
        said = await say(llama, grammar=TIGHT, max_tokens=32, seed=seed)
        assert said.finish == ["stop"]
        assert 0 <= json.loads(said.text)["a"] <= 9


async def test_an_empty_schema_allows_any_json(llama: LlamaCppEngine) -> None:
    (brace,) = await llama.tokenize("{", special=False)
    (digit,) = await llama.tokenize("7", special=False)
    for token, first in ((brace, "{"), (digit, "7")):
        said = await say(llama, json_schema={}, max_tokens=1, logit_bias={token: 100.0})
        assert said.text == first


@pytest.mark.reliability("C-18")
@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "bogus"}, "'bogus'"),
        ({"$ref": "#"}, "reference"),
        ({"$ref": "https://example.com/schema.json"}, "https://example.com/schema.json"),
        ({"$ref": "#/$defs/missing"}, "reference"),
        ({"type": "string", "pattern": "(["}, "pattern"),
        ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
        ({"type": "string", "pattern": '^"[a-z]'}, "pattern"),
        ({"type": "object", "patternProperties": {"^\\\\[a-z]$": {}}}, "patternProperties"),
        ({"type": "string", "format": "iri"}, "'iri'"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "contradicts"),
        ({"not": {"type": "string"}}, "'not'"),
        ({"properties": {"not": {"items": {"contains": {}}}}}, "'contains'"),
        ({"anyOf": [{"enum": [{"not": 1}]}, {"if": {}}]}, "'if'"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"minProperties": 1, "properties": {"a": {}, "b": {}, "c": {}}}, "minProperties"),
    ],
    ids=str,
)
async def test_a_schema_that_is_not_followed_is_refused_by_name(
    llama: LlamaCppEngine, schema: dict[str, Any], named: str
) -> None:
    for _ in range(2):  # The second time from memory.
        with pytest.raises(InvalidRequestError) as caught:
            await say(llama, json_schema=schema, max_tokens=4)
        assert caught.value.param == "json_schema"
        assert named in caught.value.message
    await until(lambda: llama.active == 0)


WIDE = {
    "type": "object",
    "properties": {f"p{at}": {"type": "boolean"} for at in range(600)},
    "additionalProperties": False,
}


@pytest.mark.reliability("C-18")
@pytest.mark.parametrize("params", [{}, {"stop": ("\n",)}, {"logprobs": 1}, {"n": 2}], ids=str)
async def test_a_schema_that_is_dropped_on_the_way_is_an_error(
    llama: LlamaCppEngine, params: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await say_all(llama, json_schema=WIDE, max_tokens=64, **params)
    assert caught.value.param == "json_schema"
    assert "too many ways" in caught.value.message
    await until(lambda: llama.active == 0)


@pytest.mark.parametrize(
    "pattern",
    ['^[^"]{3}$', '^["x][ab]$', "^\\d+\\.\\d\\d$", "^a/[bc]$", "^[\\w.-]{2}$", "^é[ab]$", "^.{4}$"],
)
async def test_a_pattern_holds(llama: LlamaCppEngine, pattern: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    (quote,) = await llama.tokenize('"', special=False)
    (backslash,) = await llama.tokenize("\\", special=False)
    for seed in range(8):
        liked = {quote: 3.0, backslash: 3.0 + seed}
        said = await say(llama, json_schema=schema, max_tokens=64, seed=seed, logit_bias=liked)
        if said.finish == ["stop"]:
            assert re.search(pattern, json.loads(said.text))


@pytest.mark.parametrize("pattern", ["[" * 60_000, "[" * 60_000 + "\\", "[^" * 30_000])
def test_a_hostile_pattern_takes_no_time(pattern: str) -> None:
    began = time.process_time()
    check_patterns({"pattern": pattern})
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    "grammar",
    ["root ::= (((", "other ::= [a]", "root ::= root [a]", "root ::= missing", "\x00", "# nothing"],
)
async def test_a_broken_grammar_is_refused(llama: LlamaCppEngine, grammar: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await say(llama, grammar=grammar, max_tokens=4)
    assert caught.value.param == "grammar"


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


HOSTILE: list[dict[str, Any]] = [
    {"json_schema": nested(30)},
    {"json_schema": {"enum": [f"value {at}" for at in range(3000)]}},
    {"json_schema": {"type": "string", "maxLength": 10**8}},
    {"json_schema": {"type": "array", "minItems": 10**9, "items": {"type": "null"}}},
    {"json_schema": {"type": "array", "maxItems": 10**9, "items": {"type": "null"}}},
    {"json_schema": {"anyOf": [{"type": "array", "maxItems": 1e300}]}},
    {"json_schema": {"type": "array", "minItems": 10**3, "items": {"type": "null"}}},
    {"json_schema": {"type": "array", "maxItems": 10**4, "items": {"type": "null"}}},
    {"json_schema": {"type": "string", "pattern": "^(((a*)*)*)*$"}},
    {"json_schema": {"type": "string", "pattern": "(" * 500 + "a" + ")" * 500}},
    {"json_schema": {"type": "string", "pattern": "a{1000}{1000}{1000}"}},
    {"json_schema": {"allOf": [{"type": "object"}] * 200}},
    {"json_schema": WIDE},
    {"json_schema": {"anyOf": [nested(3)] * 200}},
    {"json_schema": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}},
    {"grammar": "root ::= " + "(" * 3000 + '"a"' + ")" * 3000},
    {"grammar": 'root ::= ("a"*)*'},
    {"grammar": 'root ::= "a"{1,1000000}'},
    {"grammar": "root ::= " + " | ".join(f'"{at}"' for at in range(5000))},
]


@pytest.mark.reliability("S-18", "S-16")
@pytest.mark.parametrize("constraint", HOSTILE, ids=lambda each: str(each)[:50])
async def test_a_hostile_constraint_disturbs_nobody(
    llama: LlamaCppEngine, constraint: dict[str, Any]
) -> None:
    undisturbed = await greedy(llama, "Hello", 32)
    beside = [asyncio.create_task(greedy(llama, "Hello", 32)) for _ in range(2)]
    asked = asyncio.create_task(say(llama, max_tokens=4, **constraint))
    await asyncio.wait([asked], timeout=20.0)
    assert asked.done()
    if error := asked.exception():
        assert isinstance(error, InvalidRequestError)
        assert error.param in ("json_schema", "grammar")
    assert [(await each).ids for each in beside] == [undisturbed.ids] * 2
    await until(lambda: llama.active == 0)
