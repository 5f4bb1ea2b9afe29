"""`openllm.LLM`: options that its engine does not have."""

from __future__ import annotations

from typing import Any

import pytest

import openllm
from openllm.config.download import DownloadOptions
from openllm.errors import ConfigurationError, InvalidRequestError
from openllm.models.registry import REGISTRY


@pytest.mark.parametrize(
    "options",
    [{"enforce_eager": True}, {"gpu_memory_utilization": 0.5}, {"dtype": "half"}],
)
def test_they_are_refused(options: dict[str, Any]) -> None:
    (name,) = options
    told = (
        f"'demo' runs on llamacpp, which has no option {name!r}; leave it out, or give it to models"
    )
    with pytest.raises(ConfigurationError, match=told) as raised:
        openllm.LLM("demo", **options)
    assert raised.value.param == name


def test_those_it_has_and_defaults_are_taken() -> None:
    llm = openllm.LLM("demo", max_model_len=64, threads=1, enforce_eager=False, dtype="auto")
    assert llm.config.load.context_length == 64


def test_what_a_registration_brings_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllm.models.registry.REGISTRY._models", dict(REGISTRY._models))
    demo = REGISTRY["demo"].source
    REGISTRY.add_model("with-dtype", demo, defaults={"dtype": "half", "threads": 1})
    assert openllm.LLM("with-dtype").config.load.threads == 1
    with pytest.raises(ConfigurationError, match="has no option 'dtype'"):
        openllm.LLM("with-dtype", dtype="half")


def test_a_revision_is_of_the_hub() -> None:
    download = DownloadOptions(revision="v1")
    assert str(openllm.LLM("org/name", download=download)._source._ref) == "name=org/name@v1"
    with pytest.raises(ConfigurationError, match="'demo' is on this machine and has no revisions"):
        openllm.LLM("demo", download=download)


def test_a_call_takes_the_names_that_an_llm_takes() -> None:
    with openllm.LLM("demo", temperature=0, max_tokens=12) as llm:

        def text(**options: Any) -> str:
            return llm.sync_generate("The capital of France is", **options).outputs[0].text

        whole = text()
        assert "." in whole
        assert text(stop_sequence=".") == text(stop=["."]) == whole.partition(".")[0]
        assert text(max_model_len=64) == whole
        with pytest.raises(InvalidRequestError, match="context_length=2000"):
            text(max_model_len=2000)
        for name, other in (("stop", "stop_sequence"), ("context_length", "max_model_len")):
            with pytest.raises(TypeError, match=f"two values for .*give '{name}' or '{other}'"):
                text(**{name: "1", other: "2"})
