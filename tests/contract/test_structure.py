"""Text held to a JSON schema follows it and ends; a schema that cannot be followed is refused.

Biases stand for models that like white space, as a model of any quality must come to an end.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from openllm.errors import InvalidRequestError, UnsupportedError
from tests.contract.schemas import BOUNDED, DEMANDING, EXCESSIVE, OPEN, Schema
from tests.contract.subject import Answer, Subject

pytestmark = pytest.mark.anyio

SEEDS = 20
AT_ONCE = 4
WHITE = re.compile(r"\s*")
STRING = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)


async def follow(subject: Subject, schema: Schema, **params: Any) -> list[Answer]:
    """Ask for texts that follow a schema; an engine that follows none has to say so."""
    asked = {"max_tokens": 400, "json_schema": schema, **params}
    if subject.engine.capabilities.structured_output:
        return await subject.answers(subject.dice, **asked)
    with pytest.raises(UnsupportedError) as caught:
        await subject.answers(subject.dice, **asked)
    assert caught.value.param == "json_schema"
    return []


async def sampled(subject: Subject, schema: Schema, **params: Any) -> list[Answer]:
    """Ask for a text from each of `SEEDS` seeds, hot enough for unlikely tokens."""
    return [
        answer
        for seed in range(0, SEEDS, AT_ONCE)
        for answer in await follow(subject, schema, temperature=1.5, seed=seed, n=AT_ONCE, **params)
    ]


def check(answer: Answer, schema: Schema) -> None:
    """Raise unless an answer follows the schema, as far as it goes."""
    between = STRING.sub('""', answer.text)
    assert max(map(len, WHITE.findall(between))) < 32, answer.text
    if answer.finish_reason == "stop":
        Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
            json.loads(answer.text)
        )


@pytest.mark.reliability("C-18")
@pytest.mark.parametrize("name", BOUNDED)
async def test_a_text_follows_its_schema_and_ends(subject: Subject, name: str) -> None:
    schema = BOUNDED[name]
    greedy = await follow(subject, schema, temperature=0.0)
    for answer in greedy + await sampled(subject, schema):
        assert answer.finish_reason == "stop", answer.text
        check(answer, schema)


@pytest.mark.reliability("C-18")
@pytest.mark.parametrize("name", OPEN)
async def test_a_text_without_bounds_follows_its_schema_as_far_as_it_goes(
    subject: Subject, name: str
) -> None:
    for answer in await sampled(subject, OPEN[name], max_tokens=100):
        check(answer, OPEN[name])


@pytest.mark.reliability("C-18")
@pytest.mark.parametrize("name", ["record", "nested", "array of records", "anyOf of records"])
async def test_a_liking_for_white_space_does_not_keep_a_text_from_ending(
    subject: Subject, name: str
) -> None:
    biases = await liking(subject, " ", "\n", "\t")
    for temperature in (0.0, 1.5):
        for answer in await follow(
            subject, BOUNDED[name], temperature=temperature, logit_bias=biases
        ):
            assert answer.finish_reason == "stop", answer.text
            check(answer, BOUNDED[name])


@pytest.mark.reliability("C-18")
@pytest.mark.parametrize(("schema", "brackets"), [({"type": "object"}, "{}"), ({}, "[]")])
async def test_any_json_ends_where_the_model_closes_it(
    subject: Subject, schema: Schema, brackets: str
) -> None:
    first, last = brackets
    biases = await liking(subject, " ", "\n", "\t")
    biases |= await liking(subject, last, by=80.0) | await liking(subject, first, by=60.0)
    biases |= await liking(subject, '"', by=-100.0)
    for answer in await follow(subject, schema, temperature=0.0, logit_bias=biases):
        assert answer.finish_reason == "stop", answer.text
        assert json.loads(answer.text) == json.loads(brackets)


@pytest.mark.reliability("C-18")
@pytest.mark.parametrize("keyword", DEMANDING)
async def test_a_keyword_is_followed_or_refused_by_name(subject: Subject, keyword: str) -> None:
    schema = DEMANDING[keyword]
    asked = sampled(subject, schema, max_tokens=200)
    (outcome,) = await asyncio.gather(asked, return_exceptions=True)
    if isinstance(outcome, InvalidRequestError):
        assert outcome.param == "json_schema"
        assert keyword in outcome.message
        return
    assert not isinstance(outcome, BaseException)
    for answer in outcome:
        check(answer, schema)


@pytest.mark.reliability("S-18")
@pytest.mark.parametrize("name", EXCESSIVE)
async def test_what_asks_for_too_much_is_refused_with_one_reason(
    subject: Subject, name: str
) -> None:
    schema, reason = EXCESSIVE[name]
    (outcome,) = await asyncio.gather(follow(subject, schema), return_exceptions=True)
    if not subject.engine.capabilities.structured_output:
        assert outcome == []
        return
    assert isinstance(outcome, InvalidRequestError)
    assert outcome.param == "json_schema"
    assert outcome.message.startswith(f"the JSON schema cannot be followed: {reason}")


async def liking(subject: Subject, *texts: str, by: float = 100.0) -> dict[int, float]:
    """Return biases towards the tokens of some texts."""
    return {(await subject.engine.tokenize(text, special=False))[-1]: by for text in texts}
