"""What `openllm.LLM` yields: cumulative, exact, finished once."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import AsyncGenerator, Sequence

import msgspec
import pytest

import openllm
from openllm.errors import EngineError
from openllm.types import CompletionChunk, GenerateRequest
from tests.unit.llm.conftest import MakeLLM

ONE_TO_FIVE = ["one", " two", " three", " four", " five"]


async def outputs(
    llm: openllm.LLM, prompt: str = "hi", **options: object
) -> list[openllm.GenerationOutput]:
    return [each async for each in llm.generate_iterator(prompt, **options)]  # type: ignore[arg-type]


def texts(found: Sequence[openllm.GenerationOutput]) -> list[str]:
    return [output.outputs[0].text for output in found]


@pytest.mark.spec("S1-15", "S1-16")
def test_the_types_are_those_of_the_document() -> None:
    chunk = openllm.CompletionChunk(0, "a", [1], -0.5)
    assert (chunk.logprobs, chunk.finish_reason) == (None, None)
    fields = ("index", "text", "token_ids", "cumulative_logprob", "logprobs", "finish_reason")
    assert chunk.__struct_fields__ == fields
    one, other = (openllm.GenerationOutput("p", True, [chunk]) for _ in range(2))
    assert one.prompt_token_ids is None
    assert one.request_id != other.request_id
    assert one.__struct_fields__ == (
        "prompt", "finished", "outputs", "prompt_token_ids", "request_id",
    )  # fmt: skip


@pytest.mark.spec("S1-16")
def test_outputs_become_json_and_come_back() -> None:
    chunk = openllm.CompletionChunk(0, "é", [1], -0.5, [{1: -0.5, 2: -1.5}], "stop")
    output = openllm.GenerationOutput("p", True, [chunk], [7], "id")
    assert output.model_dump()["outputs"][0]["logprobs"] == [{1: -0.5, 2: -1.5}]
    text = output.model_dump_json()
    assert json.loads(text)["outputs"][0]["text"] == "é"
    assert msgspec.json.decode(text, type=openllm.GenerationOutput) == output


@pytest.mark.spec("S1-13", "S1-14")
def test_all_forms_of_generate_have_one_signature() -> None:
    llm = openllm.LLM
    assert inspect.isasyncgenfunction(llm.generate_iterator)
    assert inspect.iscoroutinefunction(llm.generate)
    assert inspect.isgeneratorfunction(llm.sync_generate_iterator)
    assert llm.async_generate is llm.generate
    assert llm.async_generate_iterator is llm.generate_iterator
    forms = (llm.generate, llm.generate_iterator, llm.sync_generate, llm.sync_generate_iterator)
    parameters = [inspect.signature(form).parameters for form in forms]
    assert parameters.count(parameters[0]) == 4
    assert list(parameters[0])[1:5] == ["prompt", "request_id", "stop", "stop_token_ids"]


@pytest.mark.anyio
@pytest.mark.spec("S1-14", "S1-28", "S1-29")
async def test_outputs_hold_all_the_text_so_far(make_llm: MakeLLM) -> None:
    found = await outputs(make_llm())
    assert (
        texts(found)
        == ["one", "one two", "one two three", "one two three four"]
        + ["one two three four five"] * 2
    )
    assert [output.finished for output in found] == [False] * 5 + [True]
    reasons = [output.outputs[0].finish_reason for output in found]
    assert reasons == [None] * 5 + ["stop"]  # B10
    assert [len(output.outputs[0].token_ids) for output in found] == [1, 2, 3, 4, 5, 5]


@pytest.mark.anyio
@pytest.mark.spec("S1-38", "S1-14")
async def test_every_form_gives_the_same_answer(make_llm: MakeLLM) -> None:
    llm = make_llm()
    last = (await outputs(llm, request_id="r", logprobs=1))[-1]
    assert await llm.generate("hi", "r", logprobs=1) == last
    assert llm.sync_generate("hi", "r", logprobs=1) == last
    assert list(llm.sync_generate_iterator("hi", "r", logprobs=1))[-1] == last


@pytest.mark.anyio
@pytest.mark.spec("S1-17")
async def test_the_request_id_is_one_for_all(make_llm: MakeLLM) -> None:
    llm = make_llm()
    assert {output.request_id for output in await outputs(llm, request_id="mine")} == {"mine"}
    (first,) = {output.request_id for output in await outputs(llm)}
    (second,) = {output.request_id for output in await outputs(llm)}
    assert first != second
    assert [each.request_id for each in llm.model.requests] == ["mine", first, second]  # B12
    with pytest.raises(TypeError, match="request_id is 7"):
        await llm.generate("hi", 7)  # type: ignore[arg-type]


@pytest.mark.anyio
@pytest.mark.spec("S1-25", "S1-28")
async def test_the_token_limit_is_kept(make_llm: MakeLLM) -> None:
    found = await outputs(make_llm(), max_new_tokens=3)
    assert texts(found) == ["one", "one two", "one two three"]
    assert found[-1].outputs[0].finish_reason == "length"
    assert found[-1].finished


@pytest.mark.anyio
@pytest.mark.spec("S1-29")
@pytest.mark.parametrize(
    ("interval", "counts"),
    [(1, [1, 2, 3, 4, 5, 5]), (2, [1, 3, 5, 5]), (3, [1, 4, 5]), (4, [1, 5, 5]), (9, [1, 5])],
)
async def test_outputs_come_at_the_stream_interval(
    make_llm: MakeLLM, interval: int, counts: list[int]
) -> None:
    found = await outputs(make_llm(), stream_interval=interval)
    assert [len(output.outputs[0].token_ids) for output in found] == counts
    assert texts(found)[-1] == "one two three four five"


@pytest.mark.anyio
@pytest.mark.spec("S1-26")
async def test_the_earliest_stop_wins_and_is_left_out(make_llm: MakeLLM) -> None:
    answer = await make_llm().generate("hi", stop=["four", " thr", "two three"])  # B6, B9
    assert answer.outputs[0].text == "one two"
    assert answer.outputs[0].finish_reason == "stop"


@pytest.mark.anyio
@pytest.mark.spec("S1-27")
async def test_no_output_ends_in_a_part_of_a_stop(make_llm: MakeLLM) -> None:
    stop = "three four!"
    found = await outputs(make_llm(), stop=stop, max_new_tokens=4)
    for text in texts(found)[:-1]:
        assert not any(text.endswith(stop[:length]) for length in range(1, len(stop)))
    assert texts(found)[-1] == "one two three four"  # Released, as it did not become one.


@pytest.mark.anyio
@pytest.mark.spec("S1-30")
async def test_characters_of_several_tokens_stay_whole(make_llm: MakeLLM) -> None:
    halves = {"tokens": ["a", [240, 159], [152, 128], "b"]}  # B19
    found = await outputs(make_llm({"default": halves}))
    assert texts(found) == ["a", "a😀", "a😀b", "a😀b"]
    assert len(found[-1].outputs[0].token_ids) == 4


@pytest.mark.anyio
@pytest.mark.spec("S1-35")
async def test_logprobs_are_real_when_asked_for(make_llm: MakeLLM) -> None:
    llm = make_llm({"default": {"distribution": {"a": 3, "b": 1}, "length": 20}})
    answer = await llm.generate("hi", logprobs=2, seed=1)  # B18
    (chunk,) = answer.outputs
    vocabulary = {"a": math.log(3 / 4), "b": math.log(1 / 4)}
    assert chunk.logprobs is not None
    assert [each[at] for each, at in zip(chunk.logprobs, chunk.token_ids, strict=True)] == (
        pytest.approx([vocabulary[char] for char in chunk.text])
    )
    assert all(len(each) == 2 for each in chunk.logprobs)
    assert chunk.cumulative_logprob == pytest.approx(sum(vocabulary[char] for char in chunk.text))
    assert (await llm.generate("hi")).outputs[0].logprobs is None


@pytest.mark.anyio
@pytest.mark.spec("S1-28")
async def test_several_sequences_finish_together(make_llm: MakeLLM) -> None:
    llm = make_llm({"default": {"reply": ["a", "b c d", "e f"]}})
    found = await outputs(llm, n=3)
    assert [chunk.text for chunk in found[-1].outputs] == ["a", "b c d", "e f"]
    assert [chunk.index for chunk in found[-1].outputs] == [0, 1, 2]
    assert [chunk.finish_reason for chunk in found[-1].outputs] == ["stop"] * 3
    for output in found[:-1]:
        assert not output.finished
        assert len(output.outputs) == 3
        assert {chunk.finish_reason for chunk in output.outputs} == {None}


@pytest.mark.anyio
async def test_outputs_do_not_change_after_they_were_given_out(make_llm: MakeLLM) -> None:
    found = []
    async for output in make_llm().generate_iterator("hi", logprobs=0):
        output.outputs[0].token_ids.append(-1)
        assert output.prompt_token_ids is not None
        output.prompt_token_ids.append(-1)
        found.append(output)
    assert all(output.outputs[0].token_ids.count(-1) == 1 for output in found)
    assert all((output.prompt_token_ids or []).count(-1) == 1 for output in found)


@pytest.mark.anyio
async def test_the_prompt_is_reported_as_the_model_reads_it(make_llm: MakeLLM) -> None:
    llm = make_llm({"default": {"reply": "{prompt}"}})
    plain = await llm.generate("<b>hi</b>")
    assert plain.prompt == "<b>hi</b>" == plain.outputs[0].text
    talk = await llm.generate(messages=[{"role": "user", "content": "hi <|im_end|>"}])
    assert talk.prompt == "<|im_start|>user\nhi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    for answer in (plain, talk):
        assert llm.tokenizer.decode(answer.prompt_token_ids) == answer.prompt
    assert (talk.prompt_token_ids or []).count(257) == 1  # The user's is text.


@pytest.mark.anyio
@pytest.mark.spec("S1-38")
async def test_an_engine_that_says_nothing_is_an_error(
    make_llm: MakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make_llm()
    said: list[CompletionChunk] = []

    async def generate(_: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        for chunk in said:
            yield chunk

    monkeypatch.setattr(llm.model, "generate", generate)
    with pytest.raises(RuntimeError, match="nothing for request r"):
        await llm.generate("hi", "r")
    said.append(CompletionChunk(0, "a", (1,)))
    with pytest.raises(EngineError, match="request r ended without a finish reason"):
        await llm.generate("hi", "r")


@pytest.mark.anyio
async def test_an_error_of_the_engine_comes_behind_the_text(make_llm: MakeLLM) -> None:
    fault = {"kind": "error", "after_tokens": 2, "message": "broken"}
    llm = make_llm({"default": {"reply": "one two three", "faults": [fault]}})
    stream = llm.generate_iterator("hi")
    assert texts([await anext(stream), await anext(stream)]) == ["one", "one two"]
    with pytest.raises(EngineError, match="broken"):
        await anext(stream)
    with pytest.raises(EngineError, match="broken"):
        llm.sync_generate("hi")
