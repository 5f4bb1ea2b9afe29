"""What a runner's methods take and return."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import openllm
from openllm.bento import runnable
from openllm.bento.runnable import LLMRunnable
from openllm.bento.runners import get_runner
from openllm.errors import InvalidRequestError
from tests.unit.bento.models import Runnable, script

Make = Callable[..., LLMRunnable]
SAID = {"default": {"reply": "You said {user}."}}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[openllm.LLM] = []

    def make(content: dict[str, Any] | None = None, **options: Any) -> LLMRunnable:
        made.append(openllm.LLM(script(tmp_path, f"m{len(made)}", **(content or {})), **options))
        return LLMRunnable(made[-1])

    yield make
    for llm in made:
        llm.sync_close()


@pytest.fixture(autouse=True)
def bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test binds."""
    monkeypatch.setattr(runnable, "_bound", {})


@pytest.mark.spec("S0-51")
def test_chat_has_the_shape_of_the_document(make: Make) -> None:
    made = make(SAID)
    reply = made.chat("hi", temperature=0.5, top_k=3, top_p=0.15, stop_sequence="--")
    assert reply["message"] == "You said hi."
    assert reply["configuration"].items() >= {
        "prompt": "hi", "temperature": 0.5, "top_k": 3, "top_p": 0.15, "stop_sequence": "--",
    }.items()  # fmt: skip
    assert made.chat({"prompt": "hi", "echo": True})["message"] == "hi You said hi."
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    turns.append({"role": "user", "content": "last"})
    for call in (made.chat(turns), made.chat(messages=turns), made.chat({"messages": turns})):
        assert call["message"] == "You said last."


@pytest.mark.spec("S0-51")
def test_complete_has_the_shape_of_the_document(make: Make) -> None:
    made = make({"default": {"reply": "one two"}}, top_k=7, freq_penalty=0.25)
    reply = made.complete("Once", n=3, stop="two")
    assert reply["choices"] == ["one "] * 3
    assert reply["configuration"]["top_k"] == 7
    assert reply["configuration"]["frequency_penalty"] == 0.25
    assert made.complete("Once", echo=True, freq_penalty=0.5)["choices"] == ["Onceone two"]


@pytest.mark.spec("S0-51")
def test_embed_gives_a_vector_for_each_text(make: Make) -> None:
    made = make()
    first, second = made.embed(["a cat", "a dog"])
    assert len(first) == len(second)
    assert math.isclose(math.hypot(*first), 1.0, abs_tol=1e-5)
    assert made.embed("a cat") == made.embed({"input": ["a cat"]}) == [first]


@pytest.mark.anyio
async def test_joined_streams_are_the_answers(make: Make) -> None:
    made = make({"default": {"reply": "grüße, {user} 世界"}})
    for name in ("chat", "complete"):
        whole = getattr(made, name)("hi", echo=True)
        pieces = [piece async for piece in getattr(made, f"{name}_stream")("hi", echo=True)]
        assert len(pieces) > 2
        assert "".join(pieces) == (whole.get("message") or whole["choices"][0])
    with pytest.raises(InvalidRequestError, match="n is 2"):
        await anext(made.complete_stream("hi", n=2))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda made: made.chat("hi", temperature=1.5), "temperature must be at most 1, got 1.5"),
        (lambda made: made.chat("hi", temprature=1), "did you mean temperature"),
        (lambda made: made.chat({"prompt": "a"}, prompt="b"), "prompt is given twice"),
        (lambda made: made.chat(), "prompt is required"),
        (lambda made: made.chat(5), "prompt must be a string"),
        (lambda made: made.chat("hi", model="other"), "this runner has 'm0'"),
        (lambda made: made.complete([1]), "prompt must be a string"),
        (lambda made: made.embed([]), "input must not be empty"),
        (lambda made: made.embed("a", model="other"), "this runner has 'm0'"),
    ],
)
def test_what_is_wrong_is_named(make: Make, call: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        call(make())


@pytest.mark.spec("S0-51")
def test_it_is_abstract_until_it_is_bound_to_a_model(tmp_path: Path) -> None:
    class Between(LLMRunnable):
        """Bound to nothing either."""

    for abstract in (LLMRunnable, Between):
        with pytest.raises(TypeError, match="is abstract: derive a class from it with model_name"):
            abstract()

    class Bound(Between, model_name=script(tmp_path, "mine", **SAID)):
        pass

    mine = Bound(**{"max-tokens": "2", "stop": "zzz"})
    assert mine.chat("hi")["configuration"].items() >= {
        "model": "mine", "max_tokens": 2, "stop_sequence": "zzz",
    }.items()  # fmt: skip


@pytest.mark.spec("S0-51")
def test_a_bound_class_is_what_get_runner_takes(tmp_path: Path) -> None:
    path = script(tmp_path, "polite", **SAID)

    class Polite(LLMRunnable, model_name="polite"):
        @classmethod
        def process_cli_args(cls, **args: Any) -> dict[str, Any]:
            return super().process_cli_args(**({"max_tokens": 1} | args))

        @Runnable.method(batchable=False)
        def greet(self, who: str) -> str:
            return str(self.chat(f"Dear {who}")["message"])

        @Runnable.method(batchable=False)
        def embed(self, data: Any = None, **fields: Any) -> list[list[float]]:
            return [[float(len(data))]]

    runner = get_runner(path, embedded=True)
    assert runner.runnable_class is Polite
    assert runner.chat.run("x")["configuration"]["max_tokens"] == 1
    other = get_runner(path, embedded=True, max_tokens=99)
    assert other.greet.run("Bob") == "You said Dear Bob."
    assert other.embed.run("four") == [[4.0]]

    plain = get_runner(f"other={path}", embedded=True)
    assert plain.runnable_class is LLMRunnable
    assert not hasattr(plain, "greet")  # BentoML's own classes would share their methods.
    assert plain.embed.run("four") != [[4.0]]


def test_the_family_of_a_bound_class_counts() -> None:
    from openllm.models.ref import parse_ref

    class Any_Llama(LLMRunnable, model_name="llama"):
        pass

    class Small(LLMRunnable, model_name="llama:7b"):
        pass

    found = [runnable.runnable_class(parse_ref(text)) for text in ("Llama", "llama:13b")]
    assert found == [Any_Llama, Any_Llama]
    assert runnable.runnable_class(parse_ref("llama:7b")) is Small
    assert runnable.runnable_class(parse_ref("bloom")) is LLMRunnable


@pytest.mark.spec("S0-51")
def test_command_line_arguments_become_settings() -> None:
    args = {"top-k": "3", "freq_penalty": 0.1, "stop": None, "max_new_tokens": 5}
    processed = {"top_k": "3", "frequency_penalty": 0.1, "max_tokens": 5}
    assert LLMRunnable.process_cli_args(**args) == processed
    with pytest.raises(TypeError, match="two values were given for top_k"):
        LLMRunnable.process_cli_args(**{"top-k": 3, "top_k": 4})
