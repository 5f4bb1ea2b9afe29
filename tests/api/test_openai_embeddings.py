"""Embeddings through the openai SDK."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.anyio


def length(vector: list[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in vector))


@pytest.mark.spec("S3-20")
async def test_base64_equals_float(sdk: openai.AsyncOpenAI, http: Any) -> None:
    by_sdk = await sdk.embeddings.create(model="demo", input=["a cat", "a dog", "x y z"])
    body = {"model": "demo", "input": ["a cat", "a dog", "x y z"]}
    as_float = (await http.post("/v1/embeddings", json=body)).json()
    as_text = await http.post("/v1/embeddings", json={**body, "encoding_format": "base64"})
    assert as_float["object"] == "list"
    assert as_float["model"] == "demo"
    assert [each["index"] for each in as_float["data"]] == [0, 1, 2]
    for mine, each, text in zip(by_sdk.data, as_float["data"], as_text.json()["data"], strict=True):
        raw = base64.b64decode(text["embedding"])
        assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == each["embedding"]
        assert mine.embedding == each["embedding"]
        assert each["object"] == "embedding"
        assert abs(length(each["embedding"]) - 1) < 1e-3
    usage = by_sdk.usage
    assert usage.prompt_tokens == usage.total_tokens > 0


@pytest.mark.parametrize("value", ["hi", ["hi"], [104, 105], [[104, 105]]])
async def test_input_forms(sdk: openai.AsyncOpenAI, value: Any) -> None:
    expected = (await sdk.embeddings.create(model="demo", input="hi")).data[0].embedding
    assert (await sdk.embeddings.create(model="demo", input=value)).data[0].embedding == expected


async def test_dimensions_truncate_and_renormalise(sdk: openai.AsyncOpenAI) -> None:
    text = "many different words make a dense vector of this kind"
    full = (await sdk.embeddings.create(model="demo", input=text)).data[0].embedding
    cut = (await sdk.embeddings.create(model="demo", input=text, dimensions=32)).data[0].embedding
    assert len(cut) == 32
    assert abs(length(cut) - 1) < 1e-6
    scale = length(full[:32])
    assert cut == pytest.approx([value / scale for value in full[:32]], abs=1e-6)
    same = await sdk.embeddings.create(model="demo", input=text, dimensions=len(full))
    assert same.data[0].embedding == full
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.embeddings.create(model="demo", input=text, dimensions=len(full) + 1)
    assert caught.value.param == "dimensions"


@pytest.mark.reliability("S-17")
async def test_many_inputs(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.embeddings.create(model="demo", input=["hi"] * 2048)
    assert [each.index for each in answer.data] == list(range(2048))
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.embeddings.create(model="demo", input=["hi"] * 2049)
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [1, "a"]}, "input[1]"),
        ({"input": {"a": 1}}, "input"),
        ({"input": None}, "input"),
        ({}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "inputs": "a"}, "inputs"),
        ({"input": "word " * 600}, "input"),
        ({"input": "a", "model": "mute"}, "model"),
    ],
)
async def test_refusals(http: Any, fields: dict[str, Any], param: str) -> None:
    reply = await http.post("/v1/embeddings", json=fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
