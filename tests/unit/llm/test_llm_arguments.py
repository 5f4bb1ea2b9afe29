"""What the arguments of `openllm.LLM` mean to the engine, and which are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import openllm
from openllm.errors import ConfigurationError, InvalidRequestError, UnsupportedError
from openllm.types import SamplingParams
from tests.unit.llm.conftest import MakeLLM

HI = [{"role": "user", "content": "hi"}]
EOS = "<|im_end|>"


async def sent(llm: openllm.LLM, *args: Any, **options: Any) -> SamplingParams:
    """Return the parameters that reach the engine, the same from both methods."""
    await llm.generate("hi", *args, **options)
    async for _ in llm.generate_iterator("hi", *args, **options):
        pass
    one, other = (each.params for each in llm.model.requests[-2:])
    assert one == other
    assert isinstance(one, SamplingParams)
    return one


@pytest.mark.anyio
async def test_every_parameter_reaches_the_engine(make_llm: MakeLLM) -> None:
    given: dict[str, Any] = {  # B1, B3, B4, B11, B18
        "temperature": 0.3, "top_k": 4, "top_p": 0.5, "min_p": 0.1, "n": 2, "seed": 7,
        "presence_penalty": 0.1, "frequency_penalty": 0.2, "repetition_penalty": 1.1,
        "logit_bias": {5: 1.0}, "logprobs": 3, "ignore_eos": True,
    }  # fmt: skip
    params = await sent(make_llm(), stop="x", stop_token_ids=[9], max_new_tokens=11, **given)
    assert params.max_tokens == 11
    assert params.stop_token_ids == (9,)
    assert params.stop == ("x", "\t")
    for name, value in given.items():
        assert getattr(params, name) == value


@pytest.mark.anyio
@pytest.mark.spec("S1-31")
async def test_parameters_act(make_llm: MakeLLM) -> None:
    llm = make_llm({"default": {"distribution": {"a": 3, "b": 2, "c": 1}, "length": 30}})

    async def letters(**options: Any) -> set[str]:
        return set((await llm.generate("hi", seed=3, **options)).outputs[0].text)

    assert await letters() == {"a", "b", "c"}
    assert await letters(top_p=0.5) == {"a"}
    assert await letters(top_k=2) == {"a", "b"}
    assert await letters(temperature=0.0) == {"a"}
    assert await letters(temperature=0.0, repetition_penalty=5.0) != {"a"}
    # The prompt's own tokens count.
    told = await llm.generate("a", temperature=0.0, max_new_tokens=1, repetition_penalty=3.0)
    assert told.outputs[0].text == "b"


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["json_schema", "grammar"])
async def test_structure_reaches_the_engine(make_llm: MakeLLM, name: str) -> None:
    value: Any = {"type": "object"} if name == "json_schema" else "root ::= [a-z]"
    with pytest.raises(UnsupportedError, match=name):  # The scripted engine's own refusal.
        await make_llm().generate("hi", **{name: value})


@pytest.mark.anyio
async def test_what_is_left_out_comes_from_the_defaults_of_the_model(make_llm: MakeLLM) -> None:
    llm = make_llm(temperature=0.5, top_k=3, top_p=0.9, max_new_tokens=7, stop="x", seed=1)
    params = await sent(llm)
    assert (params.temperature, params.top_k, params.top_p) == (0.5, 3, 0.9)
    assert (params.max_tokens, params.stop, params.seed) == (7, ("x", EOS), 1)
    params = await sent(llm, temperature=0.7, max_tokens=2, stop=[], seed=None)
    assert (params.temperature, params.top_k, params.max_tokens) == (0.7, 3, 2)
    assert (params.stop, params.seed) == ((EOS,), 1)


@pytest.mark.anyio
async def test_nothing_given_is_neutral(make_llm: MakeLLM) -> None:
    assert await sent(make_llm()) == SamplingParams(stop=(EOS,))


@pytest.mark.anyio
async def test_sampling_params_stand_for_all_defaults(make_llm: MakeLLM) -> None:
    llm = make_llm(temperature=0.5, max_new_tokens=7)
    own = openllm.SamplingParams(top_k=2, stop=("x",), logit_bias={5: 1.0})
    params = await sent(llm, sampling_params=own, top_p=0.5, ignore_eos=True, max_tokens=3)
    assert params == SamplingParams(
        top_k=2, stop=("x",), logit_bias={5: 1.0}, top_p=0.5, ignore_eos=True, max_tokens=3
    )
    with pytest.raises(TypeError, match=r"sampling_params is \{\}"):
        await llm.generate("hi", sampling_params={})  # type: ignore[typeddict-item]


@pytest.mark.anyio
@pytest.mark.spec("S1-21")
@pytest.mark.parametrize(
    ("given", "greedy"),
    [
        ({"temperature": 0.0, "top_p": 0.5}, True),
        ({"temperature": 1e-5, "top_p": 0.5}, True),
        ({"temperature": 1.1e-5, "top_p": 0.5}, False),
        ({"temperature": 0.7, "top_p": 9e-9}, True),
        ({"temperature": 0.7, "top_p": 0.0}, True),
        ({"temperature": 0.7, "top_p": 1e-8}, False),
    ],
)
async def test_tiny_temperature_and_top_p_are_greedy(
    make_llm: MakeLLM, given: dict[str, float], greedy: bool
) -> None:
    params = await sent(make_llm(), **given)
    expected = (0.0, 1.0) if greedy else (given["temperature"], given["top_p"])
    assert (params.temperature, params.top_p) == expected


@pytest.mark.anyio
@pytest.mark.spec("S1-18")
@pytest.mark.parametrize("stop", [None, "", [], [""]])
async def test_no_stop_is_no_error(make_llm: MakeLLM, stop: Any) -> None:
    assert (await sent(make_llm(), stop=stop)).stop == (EOS,)  # B5
    assert (await make_llm().generate("hi", stop=stop)).outputs[0].finish_reason == "stop"


@pytest.mark.anyio
@pytest.mark.spec("S1-18")
@pytest.mark.parametrize("stop", [5, {"a": 1}, ("a",), [1], ["a", None], b"a", 1.5, True])
async def test_a_stop_of_another_type_is_refused(make_llm: MakeLLM, stop: Any) -> None:
    llm = make_llm()
    with pytest.raises(ValueError, match=r"Invalid stop field type\."):
        await llm.generate("hi", stop=stop)
    with pytest.raises(ValueError, match=r"Invalid stop field type\."):
        await anext(llm.generate_iterator("hi", stop=stop))


@pytest.mark.anyio
@pytest.mark.spec("S1-19")
async def test_stop_tokens_end_the_answer_and_the_list_stays(make_llm: MakeLLM) -> None:
    llm = make_llm({"default": {"tokens": ["one", " two", [0], " three"]}})
    whole = (await llm.generate("hi")).outputs[0]
    assert whole.text == "one two\0 three"
    ids = [whole.token_ids[1]]
    cut = (await llm.generate("hi", stop_token_ids=ids)).outputs[0]  # B8
    assert (cut.text, cut.finish_reason, ids) == ("one", "stop", [whole.token_ids[1]])
    zero = (await llm.generate("hi", stop_token_ids=[0])).outputs[0]  # B7: id 0 counts.
    assert (zero.text, zero.token_ids) == ("one two", whole.token_ids[:2])
    assert (await sent(llm, stop_token_ids=None)).stop_token_ids == ()


@pytest.mark.anyio
@pytest.mark.spec("S1-20")
async def test_the_text_of_a_stop_token_is_a_stop_string(make_llm: MakeLLM) -> None:
    said = {"tokens": ["one", " t", "wo", " three", "<|im", "_end|>", " rest"]}
    other = {"match": "words", "reply": "one two"}
    llm = make_llm({"rules": [other], "default": said})
    two = llm.tokenizer.encode(" two")
    assert len(two) == 1
    cut = (await llm.generate("hi", stop_token_ids=two)).outputs[0]
    assert (cut.text, cut.finish_reason) == ("one", "stop")
    # The model's own end token is among them, unless it is to be ignored.
    assert (await llm.generate("hi")).outputs[0].text == "one two three"
    on = await llm.generate("hi", ignore_eos=True, max_new_tokens=7)
    assert on.outputs[0].text == "one two three<|im_end|> rest"


@pytest.mark.anyio
async def test_messages_go_through_the_template(make_llm: MakeLLM) -> None:
    llm = make_llm({"default": {"reply": "{system}|{user}"}}, prompt="Be brief.")
    both: Any = [openllm.Message("system", "S"), {"role": "user", "content": "U"}]
    assert (await llm.generate(messages=both)).outputs[0].text == "Be brief.\n\nS|U"
    assert (await llm.generate("U")).prompt == "Be brief.U"
    silent = make_llm({"chat_template": ""})
    with pytest.raises(UnsupportedError, match="no chat template"):
        await silent.generate(messages=HI)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "the prompt is empty"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "a", "messages": HI}, "exclude each other"),
        ({"messages": []}, "messages is empty"),
        ({"messages": [{"role": "user"}]}, "missing required field `content`"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "invalid enum value 'wizard'"),
        (
            {"messages": [{"role": "user", "content": "a", "name": "b", "x": 1}]},
            "unknown field `x`",
        ),
        ({"messages": "hi"}, "messages cannot be read"),
        ({"prompt": "a", "temperature": "hot"}, r"temperature='hot' .* expected `float`"),
        ({"prompt": "a", "max_new_tokens": 2.5}, "max_new_tokens=2.5 must be a whole number"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens=0 must be .* at least 1"),
        ({"prompt": "a", "max_tokens": -1}, "max_new_tokens=-1"),
        ({"prompt": "a", "n": True}, "n=True has the wrong type"),
        ({"prompt": "a", "logit_bias": {5: "x"}}, "logit_bias={5: 'x'}"),
        ({"prompt": "a", "logit_bias": {"x": 5}}, "logit_bias={'x': 5} .* expected `int`"),
        ({"prompt": "a", "stop_token_ids": ["x"]}, "stop_token_ids"),
        ({"prompt": "a", "stop_token_ids": 5}, "stop_token_ids=5 .* expected `array`"),
        ({"prompt": "a", "stop_token_ids": "12"}, "stop_token_ids='12' .* expected `array`"),
        ({"prompt": "a", "stream_interval": 0}, "stream_interval=0"),
        ({"prompt": "a", "context_length": -5}, "context_length=-5"),
        ({"prompt": "a", "temperature": -1.0}, "temperature"),
        ({"prompt": "a", "temperature": float("nan")}, "temperature"),
        ({"prompt": "a", "top_p": 2.0}, "top_p"),
        ({"prompt": "a", "n": 0}, "n=0"),
        ({"prompt": "a", "stop_token_ids": [10**6]}, "stop_token_ids|token_ids: 1000000"),
    ],
)
async def test_a_wrong_value_is_refused_by_name(
    make_llm: MakeLLM, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=f"(?i){message}"):  # B16
        await make_llm().generate(**options)


@pytest.mark.anyio
async def test_an_unknown_name_is_refused_with_a_suggestion(make_llm: MakeLLM) -> None:
    llm = make_llm()
    message = r"no argument 'temprature'; did you mean 'temperature'\?"
    with pytest.raises(TypeError, match=message):
        await llm.generate("hi", temprature=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=message):
        make_llm(temprature=1)
    with pytest.raises(TypeError, match=r"no argument 'zzz'$"):
        llm.sync_generate("hi", zzz=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="two values for max_tokens"):
        llm.sync_generate("hi", max_tokens=1, max_new_tokens=2)
    with pytest.raises(TypeError, match="prompt is 5"):
        llm.sync_generate(5)  # type: ignore[arg-type]
    texts: Any
    for texts in (5, None, ["a", 5], b"a"):
        with pytest.raises(TypeError, match=r"texts is .*; give a string or a list of strings"):
            llm.sync_embed(texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 2.0}, r"^temperature 2\.0 must be a number from 0 to 1$"),
        ({"threads": "many"}, "^threads 'many' must be a whole number from 1 to 1024$"),
        ({"max_new_tokens": 0}, "^max_tokens 0 must be a whole number, 1 or more$"),
        ({"max_tokens": 0, "threads": True}, "(?s)2 settings are wrong:.*threads.*max_tokens"),
        ({"backend": "magic"}, "no backend 'magic'"),
        ({"backend": "llamacpp"}, "llamacpp backend cannot load"),
        ({"model_tag": "a:b", "model_name": "c"}, "excludes model_name"),
        ({"model_name": "Not A Tag"}, "model_name is 'Not A Tag'"),
        ({"model_version": "ü"}, "model_version is 'ü'"),
        ({"model_name": 5}, "model_name is 5; use at most 63"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_loads(
    make_llm: MakeLLM, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_llm(**options)


def test_an_unknown_model_is_refused_with_what_is_known() -> None:
    with pytest.raises(ConfigurationError, match="demo"):
        openllm.LLM("dmeo")
    wrong: Any
    for wrong in (5, None, b"demo"):
        with pytest.raises(TypeError, match=r"model_id is .*; give a model's name"):
            openllm.LLM(wrong)
    wrong = {"hub_token": "secret"}
    with pytest.raises(TypeError, match=r"download is a dict; give .*DownloadOptions$"):
        openllm.LLM("demo", download=wrong)


@pytest.mark.anyio
async def test_numbers_of_numpy_are_numbers(make_llm: MakeLLM) -> None:
    ids: Any = np.array([5])
    params = await sent(
        make_llm(), temperature=np.float32(0.5), top_k=np.int64(3), stop_token_ids=ids
    )
    assert (params.temperature, params.top_k, params.stop_token_ids) == (0.5, 3, (5,))
