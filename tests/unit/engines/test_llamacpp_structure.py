"""JSON schemas and grammars hold, and those that cannot hold are refused by name."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from openllm.engines.llamacpp_engine import LlamaCppEngine
from openllm.errors import InvalidRequestError
from tests.unit.engines.llamas import greedy, say, until

pytestmark = pytest.mark.anyio

COLOURS = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue", "🚲"]}, "big": {"type": "boolean"}},
    "required": ["colour", "big"],
    "additionalProperties": False,
}
# Text without spaces, as random weights like endless spaces.
TIGHT = 'root ::= "{" "\\"a\\":" [0-9] "}"'


@pytest.mark.spec("S3-25")
async def test_output_follows_a_schema(llama: LlamaCppEngine) -> None:
    found = 0
    for seed in range(12):
        said = await say(llama, json_schema=COLOURS, max_tokens=200, seed=seed, temperature=0.3)
        if said.finish == ["stop"]:
            value = json.loads(said.text)
            assert value["colour"] in ("red", "blue", "🚲")
            assert isinstance(value["big"], bool)
            found += 1
    assert found


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
    "schema",
    [
        {"type": "bogus"},
        {"$ref": "#"},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "#/$defs/missing"},
        {"type": "string", "pattern": "(["},
        {"type": "array", "uniqueItems": True},
        {"type": "integer", "minimum": 5, "maximum": 1},
        {"not": {"type": "string"}},
    ],
    ids=json.dumps,
)
async def test_a_schema_that_is_not_followed_is_refused(
    llama: LlamaCppEngine, schema: dict[str, Any]
) -> None:
    for _ in range(2):  # The second time from memory.
        with pytest.raises(InvalidRequestError) as caught:
            await say(llama, json_schema=schema, max_tokens=4)
        assert caught.value.param == "response_format"
    await until(lambda: llama.active == 0)


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
    {"json_schema": {"type": "array", "minItems": 10**4, "items": {"type": "null"}}},
    {"json_schema": {"type": "string", "pattern": "^(((a*)*)*)*$"}},
    {"json_schema": {"type": "string", "pattern": "(" * 500 + "a" + ")" * 500}},
    {"json_schema": {"type": "string", "pattern": "a{1000}{1000}{1000}"}},
    {"json_schema": {"allOf": [{"type": "object"}] * 200}},
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
    await asyncio.wait([asked], timeout=3.0)
    assert asked.done()
    if error := asked.exception():
        assert isinstance(error, InvalidRequestError)
        assert error.param in ("response_format", "grammar")
    assert [(await each).ids for each in beside] == [undisturbed.ids] * 2
    await until(lambda: llama.active == 0)
