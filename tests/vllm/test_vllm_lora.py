"""LoRA adapters on vLLM that it cannot use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openllm.errors import EngineStartError
from openllm.types import LocalModel
from tests.contract.subject import started
from tests.lora import find_adapters, write_peft
from tests.torch.checkpoints import make_checkpoint

pytestmark = pytest.mark.anyio


@pytest.mark.spec("S0-27")
async def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    base = make_checkpoint("LlamaForCausalLM", tmp_path / "base")
    pair = np.ones((4, 96), np.float32), np.ones((32, 4), np.float32)
    adapter = write_peft(tmp_path / "wide", {"model.layers.0.self_attn.o_proj": pair})
    model = LocalModel(
        name="tiny",
        path=str(base),
        format="safetensors",
        adapters=find_adapters([f"wide={adapter}"]),
    )
    with pytest.raises(EngineStartError, match="vLLM cannot use the adapter wide"):
        async with started("vllm", model, dtype="float32", enforce_eager=True):
            pass
