"""`gpu_memory_utilization`: a share of the memory, for vLLM."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from openllm.bento.options import read_configuration
from openllm.config.fields import written
from openllm.config.model import LoadOptions
from openllm.engines.vllm_arguments import engine_arguments
from openllm.errors import ConfigurationError
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


@pytest.mark.spec("S2-19")
@pytest.mark.parametrize("share", ["-0.01", "1.01", "nan", "inf", "half", True])
@pytest.mark.parametrize("spelled", ["gpu_memory_utilization", "gpu-memory-utilization"])
def test_what_is_no_share_is_refused_by_its_flag(spelled: str, share: object) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read_configuration("demo", {spelled: share}, {})
    flag = "--gpu-memory-utilization"
    assert raised.value.message == f"{flag} {written(share)} must be a number from 0 to 1"


@pytest.mark.spec("S2-19")
@pytest.mark.parametrize("share", ["0", "0.5", "1"])
def test_both_bounds_are_shares(share: str) -> None:
    (entry,) = read_configuration("demo", {"gpu_memory_utilization": share}, {}).entries
    assert entry.config.load.gpu_memory_utilization == float(share)
