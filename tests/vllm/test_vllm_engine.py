"""vLLM behind the engine door, where the contract says nothing: its own samplers, its survival."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from openllm.engines.grammar_lark import MAX_LEVELS
from openllm.engines.json_schemas import MAX_LINKED
from openllm.engines.vllm_engine import VLLMEngine
from openllm.errors import InvalidRequestError, UnsupportedError
from tests.contract.schemas import EXCESSIVE, chain
from tests.vllm.serving import FOLDER, answers, ask, engine_processes, request

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

STORY = "Once upon a time"
DICE = "The"


@pytest.fixture(scope="module")
def reference() -> Any:
    """The same model in transformers, in float32."""
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def distributions(reference: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Return the log probabilities before each token of an answer: [tokens, vocabulary]."""
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)


@pytest.mark.spec("S1-44")
async def test_greedy_is_what_transformers_says(engine: VLLMEngine, reference: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    for prompt in (STORY, DICE, "naïve café 日本語"):
        ids = tokenizer(prompt).input_ids
        answer = await ask(engine, prompt, temperature=0.0, max_tokens=40, ignore_eos=True)
        expected = distributions(reference, ids, answer.token_ids).argmax(-1).tolist()
        assert answer.token_ids == expected
        assert answer.text == tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.reliability("C-10")
async def test_logprobs_are_those_of_transformers(engine: VLLMEngine, reference: Any) -> None:
    ids = await engine.tokenize(DICE, special=False)
    answer = await ask(engine, DICE, seed=1, max_tokens=20, logprobs=5, temperature=1.3, top_p=0.9)
    for expected, found in zip(
        distributions(reference, ids, answer.token_ids), answer.logprobs, strict=True
    ):
        assert found.logprob == pytest.approx(expected[found.token_id].item(), abs=1e-3)
        likeliest = expected.topk(5).indices.tolist()
        assert {each.token_id for each in found.top} == {*likeliest, found.token_id}
        for each in found.top:
            assert each.logprob == pytest.approx(expected[each.token_id].item(), abs=1e-3)


@pytest.mark.reliability("C-11")
async def test_a_seed_repeats_beside_other_requests(engine: VLLMEngine) -> None:
    alone = await ask(engine, DICE, seed=5, max_tokens=24)
    noise = [asyncio.create_task(ask(engine, STORY, max_tokens=40)) for _ in range(3)]
    beside = await ask(engine, DICE, seed=5, max_tokens=24)
    await asyncio.gather(*noise)
    assert beside.token_ids == alone.token_ids


@pytest.mark.reliability("C-06")
async def test_greedy_sequences_may_be_several(engine: VLLMEngine) -> None:
    found = await answers(engine, STORY, n=3, temperature=0.0, max_tokens=8)
    assert len({answer.text for answer in found}) == 1


@pytest.mark.reliability("C-23")
@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
async def test_a_penalty_makes_tokens_come_back_less_often(engine: VLLMEngine, name: str) -> None:
    async def repeated(penalty: float) -> int:
        params = {"n": 4, "seed": 0, "max_tokens": 60, "ignore_eos": True, name: penalty}
        found = await answers(engine, DICE, **params)
        return sum(len(each.token_ids) - len(set(each.token_ids)) for each in found)

    assert await repeated(2.0) < await repeated(0.0) < await repeated(-2.0)


@pytest.mark.reliability("C-23")
async def test_a_repetition_penalty_counts_the_prompt(engine: VLLMEngine) -> None:
    first = (await ask(engine, STORY, temperature=0.0, max_tokens=1)).token_ids[0]
    prompt = (*await engine.tokenize(STORY, special=False),)
    plain = await ask(engine, (first, *prompt), temperature=0.0, max_tokens=1)
    params = {"temperature": 0.0, "max_tokens": 1, "repetition_penalty": 100.0}
    punished = await ask(engine, (plain.token_ids[0], *prompt), **params)
    assert punished.token_ids != plain.token_ids


@pytest.mark.reliability("C-08")
async def test_a_prompt_that_was_read_before_is_not_read_again(engine: VLLMEngine) -> None:
    words = await engine.tokenize("one two three four five", special=False)
    ids = tuple(words * 80)[:400]
    first = await ask(engine, ids, max_tokens=1)
    again = await ask(engine, (*ids, 100), max_tokens=1)
    assert first.last is not None
    assert again.last is not None
    assert first.last.usage is not None
    assert again.last.usage is not None
    assert first.last.usage.cached_tokens < 128
    assert 256 <= again.last.usage.cached_tokens <= 400


@pytest.mark.reliability("C-18")
async def test_json_is_written_on_one_line(engine: VLLMEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}, "b": {"type": "boolean"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    for seed in range(5):
        answer = await ask(engine, DICE, json_schema=schema, seed=seed, max_tokens=60)
        assert answer.text == json.dumps(json.loads(answer.text))


@pytest.mark.parametrize(
    ("grammar", "texts"),
    [
        ('root ::= "yes" | "no"', {"yes", "no"}),
        ('root ::= [a-b]{2} "b"', {"aab", "abb", "bab", "bbb"}),
        ('root ::= pair\npair ::= "(" pair? ")"', None),
        ('root ::= "::=" | "é日"', {"::=", "é日"}),
    ],
)
async def test_grammars_are_followed(
    engine: VLLMEngine, grammar: str, texts: set[str] | None
) -> None:
    for seed in range(4):
        answer = await ask(engine, DICE, grammar=grammar, seed=seed, max_tokens=30)
        if texts is not None:
            assert answer.text in texts
        assert set(answer.text) <= set("()yesnoab:=é日")


HOSTILE: list[dict[str, Any]] = [
    *({"json_schema": schema} for schema, _ in EXCESSIVE.values()),
    {"json_schema": {"type": "nonsense"}},
    {"json_schema": {"$ref": "#/nowhere"}},
    {"json_schema": {"$ref": "http://127.0.0.1/schema"}},
    {"json_schema": {"type": "string", "pattern": "["}},
    {"json_schema": {"type": "string", "format": "nonsense"}},
    {"json_schema": {"enum": []}},
    {"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}},
    {"grammar": ""},
    {"grammar": "nonsense"},
    {"grammar": "root ::= missing"},
    {"grammar": 'start: "lark"'},
    {"grammar": "%llguidance {}"},
    {"grammar": 'root ::= "a"', "json_schema": {}},
    {"grammar": 'root ::= "a"', "ignore_eos": True},
]


@pytest.mark.reliability("S-16")
async def test_no_request_kills_the_engine(engine: VLLMEngine) -> None:
    (process,) = engine_processes()
    alone = await ask(engine, STORY, temperature=0.0, max_tokens=100, ignore_eos=True)
    good = [
        asyncio.create_task(ask(engine, STORY, temperature=0.0, max_tokens=100, ignore_eos=True))
        for _ in range(3)
    ]
    bad = [ask(engine, DICE, max_tokens=4, **params) for params in HOSTILE]
    for error in await asyncio.gather(*bad, return_exceptions=True):
        assert isinstance(error, InvalidRequestError), error
    assert [answer.token_ids for answer in await asyncio.gather(*good)] == [alone.token_ids] * 3
    assert engine_processes() == [process]
    assert await engine.health()


@pytest.mark.reliability("S-16")
async def test_what_is_compiled_deep_does_not_overflow_the_engine(engine: VLLMEngine) -> None:
    (process,) = engine_processes()
    rules = "\n".join(f"r{at} ::= r{at + 1}" for at in range(MAX_LEVELS - 5))
    deep: list[dict[str, Any]] = [
        {"grammar": f'root ::= r0\n{rules}\nr{MAX_LEVELS - 5} ::= "a"'},
        {"grammar": f'root ::= r0\n{rules}\nr{MAX_LEVELS - 5} ::= "a" | root'},
        {"json_schema": chain(MAX_LINKED // 3 - 1)},
    ]
    for params in deep:
        answer = await ask(engine, DICE, max_tokens=4, **params)
        assert answer.token_ids
    assert engine_processes() == [process]


@pytest.mark.reliability("F-01", "C-22")
async def test_cancelling_frees_the_kv_cache(engine: VLLMEngine) -> None:
    """One full context fills the cache, so a block that leaked would keep the next one waiting."""
    full = {"max_tokens": None, "ignore_eos": True, "temperature": 0.0}
    for number in range(24):
        stream = engine.generate(request(f"{number} {DICE}", n=2, **full))
        for _ in range(number % 4):
            await anext(stream)
        await stream.aclose()
        assert engine.active == 0
    answer = await asyncio.wait_for(ask(engine, DICE, **full), 60)
    assert answer.last is not None
    assert answer.last.usage is not None
    assert answer.last.usage.total_tokens == 512


@pytest.mark.reliability("F-01")
async def test_cancelling_is_quick(engine: VLLMEngine) -> None:
    loop = asyncio.get_running_loop()
    for chunks in (0, 1, 10):
        stream = engine.generate(request(STORY, ignore_eos=True))
        for _ in range(chunks):
            await anext(stream)
        begun = loop.time()
        await stream.aclose()
        assert loop.time() - begun < 5.0  # All of the context would take longer.


async def test_a_model_that_generates_does_not_embed(engine: VLLMEngine) -> None:
    assert engine.capabilities.max_embedding_tokens == 0
    with pytest.raises(UnsupportedError, match="runner=pooling"):
        await engine.embed(["a"])


async def test_logprobs_of_what_a_grammar_rules_out_are_numbers(engine: VLLMEngine) -> None:
    answer = await ask(engine, DICE, grammar='root ::= "a"', logprobs=3, max_tokens=4)
    values = [each.logprob for found in answer.logprobs for each in (found, *found.top)]
    assert values
    assert all(math.isfinite(value) for value in values)
