"""Where vLLM puts a model: on what it was built for, and nowhere else."""

from __future__ import annotations

import logging

import pytest
from vllm.platforms import current_platform

from openllm.errors import ConfigurationError
from tests.vllm.serving import started

PHASES = (
    "importing vLLM",
    "starting vLLM's own process",
    "loading weights",
    "weights loaded in",
    "saying the first words",
    "model demo is ready in",
)


@pytest.mark.anyio
@pytest.mark.spec("S0-36")
async def test_on_its_own_kind_of_device_and_its_phases_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "openllm.engines.vllm")
    async with started(device=current_platform.device_type) as engine:
        assert await engine.health()
    told = [each.getMessage() for each in caplog.records if each.levelno == logging.INFO]
    places = [next(at for at, line in enumerate(told) if line.startswith(each)) for each in PHASES]
    assert places == sorted(places)


@pytest.mark.anyio
@pytest.mark.spec("S0-36")
async def test_another_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="device mps: the installed vLLM") as raised:
        async with started(device="mps"):
            pass
    assert raised.value.param == "device"
