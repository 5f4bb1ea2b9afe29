"""Where vLLM puts a model: on what it was built for, and nowhere else."""

from __future__ import annotations

import pytest
from vllm.platforms import current_platform

from openllm.errors import ConfigurationError
from tests.vllm.serving import started, vllm


@pytest.mark.anyio
@pytest.mark.spec("S0-36")
async def test_on_its_own_kind_of_device() -> None:
    async with started(device=current_platform.device_type) as engine:
        assert await engine.health()


@pytest.mark.anyio
@pytest.mark.spec("S0-36")
async def test_another_kind_is_refused() -> None:
    engine = vllm(device="mps")
    with pytest.raises(ConfigurationError, match="device mps: the installed vLLM") as raised:
        await engine.start()
    assert raised.value.param == "device"
    await engine.close()
