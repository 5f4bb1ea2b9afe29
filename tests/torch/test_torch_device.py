"""Where the torch engine puts a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import openllm
from openllm.errors import ConfigurationError
from tests.e2e.server_process import serving

FOLDER = Path(openllm.__file__).parent / "demo" / "safetensors"


@pytest.mark.spec("S0-36")
def test_on_the_processor() -> None:
    with openllm.LLM(FOLDER, backend="torch", device="cpu", threads=1) as llm:
        assert {each.device for each in llm.model.parameters()} == {torch.device("cpu")}


@pytest.mark.spec("S0-36")
@pytest.mark.parametrize("device", ["gpu:99", "cuda:99"])
def test_a_card_that_is_not_here_is_refused(device: str) -> None:
    llm = openllm.LLM(FOLDER, backend="torch", device=device)
    with pytest.raises(ConfigurationError, match="'cuda:99' is not on this machine") as raised:
        _ = llm.model
    assert raised.value.param == "device"


@pytest.mark.spec("S0-36")
@pytest.mark.parametrize("flags", [("a:cpu,b:cpu",), ("a:cpu", "b:cpu")])
def test_engines_side_by_side_are_placed_alike(flags: tuple[str, ...]) -> None:
    """`a` runs on llama.cpp and `b` on torch; an option of torch for all reaches it alone."""
    placed = [part for flag in flags for part in ("--device", flag)]
    options = ("--opt", "b.backend=torch", "--dtype", "float", "--threads", "1")
    with serving(f"a=demo,b={FOLDER}", *placed, *options) as server:
        assert server.ready["models"] == ["a", "b"]
        for name in ("a", "b"):
            asked = {"model": name, "prompt": "Once upon", "max_tokens": 4, "temperature": 0}
            assert server.post("/v1/completions", asked).status_code == 200
