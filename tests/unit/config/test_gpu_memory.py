"""`gpu_memory_utilization`: vLLM's, and refused where another engine would ignore it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from openllm.config.model import LoadOptions
from openllm.engines.vllm_arguments import engine_arguments
from openllm.errors import ConfigurationError
from openllm.llm.choice import choose_by_facts
from openllm.types import LocalModel


def test_vllm_gets_it() -> None:
    model = LocalModel(name="m", path="/m", format="safetensors")
    found = engine_arguments(model, LoadOptions(gpu_memory_utilization=0.5), ())
    assert found["gpu_memory_utilization"] == 0.5
    assert "gpu_memory_utilization" not in engine_arguments(model, LoadOptions(), ())


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_it_is_a_share(share: float) -> None:
    with pytest.raises(ValidationError):
        LoadOptions(gpu_memory_utilization=share)


def test_other_engines_refuse_it() -> None:
    with pytest.raises(ConfigurationError, match="'m' runs on llamacpp, and gpu_memory") as raised:
        choose_by_facts("m", "gguf", "", LoadOptions(gpu_memory_utilization=0.5))
    assert raised.value.param == "gpu_memory_utilization"
