"""`openllm.LLM` on the torch engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import openllm
from openllm.llm.bridge import the_bridge
from openllm.types import GenerateRequest, Usage
from tests.torch.checkpoints import greedy_alone, make_checkpoint
from tests.waiting import until

OPTIONS: dict[str, Any] = {"backend": "torch", "dtype": "float32", "threads": 1}
DEMO = Path(openllm.__file__).parent / "demo" / "safetensors"
PROMPTS = ("Once upon a time", "def main():", "naïve café 日本語")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("torch") / "tiny-llama")


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[openllm.LLM]:
    with openllm.LLM(folder, **OPTIONS) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openllm.LLM]:
    folder = make_checkpoint("flan_t5", tmp_path_factory.mktemp("torch") / "tiny-t5")
    with openllm.LLM(folder, **OPTIONS) as loaded:
        yield loaded


async def counted(llm: openllm.LLM, prompt: str) -> int:
    """Return the tokens that the engine counts for a prompt."""
    params = openllm.SamplingParams(max_tokens=1)
    request = GenerateRequest(request_id="count", prompt=prompt, params=params)
    engine = (await the_bridge().call(llm._engine.get())).engine

    async def count() -> Usage | None:
        async with aclosing(engine.generate(request)) as chunks:
            return [chunk.usage async for chunk in chunks][-1]

    usage = await the_bridge().call(count())
    assert usage is not None
    return usage.prompt_tokens


@pytest.mark.spec("S1-05")
def test_model_and_tokenizer_are_those_of_transformers(folder: Path) -> None:
    llm = openllm.LLM(folder, **OPTIONS)
    model = llm.model
    try:
        assert isinstance(model, transformers.LlamaForCausalLM)
        assert isinstance(llm.tokenizer, transformers.PreTrainedTokenizerBase)
        llm.sync_generate("hi", max_new_tokens=2)
        assert llm.model is model
    finally:
        llm.sync_close()


@pytest.mark.anyio
@pytest.mark.spec("S1-38", "S1-30")
async def test_greedy_is_what_transformers_generates(llm: openllm.LLM, folder: Path) -> None:
    answers = await asyncio.gather(
        *(llm.generate(prompt, temperature=0.0, max_new_tokens=12) for prompt in PROMPTS)
    )
    prompts = [answer.prompt_token_ids or [] for answer in answers]
    assert prompts == [llm.tokenizer(prompt).input_ids for prompt in PROMPTS]
    for answer, expected in zip(answers, greedy_alone(folder, prompts, 12), strict=True):
        (chunk,) = answer.outputs
        assert chunk.token_ids == expected[: len(chunk.token_ids)]
        assert len(chunk.token_ids) == 12 or chunk.finish_reason == "stop"


@pytest.mark.anyio
@pytest.mark.spec("S1-43")
async def test_an_encoder_decoder_generates(t5: openllm.LLM) -> None:
    assert isinstance(t5.model, transformers.T5ForConditionalGeneration)  # B17
    for prompt in PROMPTS:
        answer = await t5.generate(prompt, temperature=0.0, max_new_tokens=8)
        assert answer.prompt_token_ids == t5.tokenizer(prompt).input_ids
        assert answer.prompt_token_ids[-1] == t5.tokenizer.eos_token_id
        (chunk,) = answer.outputs
        (expected,) = greedy_alone(Path(t5.model_id), [answer.prompt_token_ids], 8)
        assert chunk.token_ids == [each for each in expected if each != t5.tokenizer.eos_token_id]
        assert chunk.text


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["llm", "t5"])
async def test_prompt_tokens_are_those_the_engine_counts(
    name: str, request: pytest.FixtureRequest
) -> None:
    llm: openllm.LLM = request.getfixturevalue(name)
    for prompt in (*PROMPTS, "<s>hi", "hi</s>", "hi <|im_end|>"):
        answer = await llm.generate(prompt, max_new_tokens=1)
        assert len(answer.prompt_token_ids or ()) == await counted(llm, prompt)


@pytest.mark.anyio
@pytest.mark.spec("S1-35")
async def test_logprobs_are_those_of_the_model(llm: openllm.LLM) -> None:
    answer = await llm.generate(PROMPTS[0], max_new_tokens=6, logprobs=2, seed=1)  # B18
    (chunk,) = answer.outputs
    whole = [*(answer.prompt_token_ids or ()), *chunk.token_ids]
    with torch.inference_mode():
        logits = llm.model(torch.tensor([whole])).logits[0, -len(chunk.token_ids) - 1 : -1]
    expected = torch.log_softmax(logits.float(), -1)
    assert chunk.logprobs is not None
    for at, token_id in enumerate(chunk.token_ids):
        for each, logprob in chunk.logprobs[at].items():
            assert logprob == pytest.approx(float(expected[at, each]), abs=1e-3)
        assert token_id in chunk.logprobs[at]
        assert int(expected[at].argmax()) in chunk.logprobs[at]
    total = float(sum(expected[at, each] for at, each in enumerate(chunk.token_ids)))
    assert chunk.cumulative_logprob == pytest.approx(total, abs=1e-2)


@pytest.mark.anyio
@pytest.mark.spec("S1-20")
async def test_the_text_of_a_special_token_is_a_stop_string(llm: openllm.LLM) -> None:
    tokenizer = llm.tokenizer
    chat = await the_bridge().call(llm._engine.get())
    end = tokenizer.eos_token_id
    assert await the_bridge().call(chat.token_text(end)) == tokenizer.eos_token
    assert chat.eos == tokenizer.eos_token


@pytest.mark.anyio
@pytest.mark.spec("S1-37")
async def test_inference_mode_stays_where_the_model_runs(llm: openllm.LLM) -> None:
    async def enabled() -> bool:
        return bool(torch.is_inference_mode_enabled())

    async for _ in llm.generate_iterator("hi", max_new_tokens=8, ignore_eos=True):  # B15
        assert not torch.is_inference_mode_enabled()
        assert not await the_bridge().call(enabled())


@pytest.mark.anyio
@pytest.mark.spec("S1-36")
async def test_leaving_ends_the_work(llm: openllm.LLM) -> None:
    engine = (await the_bridge().call(llm._engine.get())).engine
    stream = llm.generate_iterator("hi", max_new_tokens=400, ignore_eos=True)  # B20
    await anext(stream)
    assert engine.active  # type: ignore[attr-defined]
    await stream.aclose()
    await until(lambda: not engine.active)  # type: ignore[attr-defined]


@pytest.mark.spec("S1-07")
def test_from_pretrained_takes_objects_of_torch(folder: Path) -> None:
    llm = openllm.LLM.from_pretrained(
        folder, backend="pt", torch_dtype=torch.bfloat16, device_map=torch.device("cpu")
    )
    assert (llm.config.load.dtype, llm.config.load.device) == ("bfloat16", "cpu")
    assert llm.backend == "torch"
    assert llm.tag.startswith("pt-tiny-llama:")


def test_the_bundled_folder_answers() -> None:
    with openllm.LLM(DEMO, **OPTIONS) as llm:
        question: Any = [{"role": "user", "content": "What is the capital of France?"}]
        answer = llm.sync_generate(messages=question, temperature=0.0, max_new_tokens=16)
        assert answer.outputs[0].text == "The capital of France is Paris."
        assert answer.outputs[0].finish_reason == "stop"
