"""`openllm.LLM` on vLLM gives what it gives on PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest

import openllm

FOLDER = Path(openllm.__file__).parent / "demo" / "safetensors"


@pytest.mark.anyio
@pytest.mark.spec("S1-13", "S1-34")
@pytest.mark.filterwarnings("ignore:Unclosed context:ResourceWarning")
async def test_outputs_are_the_same_on_both_engines() -> None:
    said = {}
    for backend, options in (("torch", {}), ("vllm", {"enforce_eager": True})):
        llm = openllm.LLM(FOLDER, backend=backend, dtype="float32", **options)
        async with llm:
            asked = {"temperature": 0.0, "max_new_tokens": 12, "logprobs": 1}
            last = await llm.generate("The capital of France", request_id="mine", **asked)
            outputs = llm.generate_iterator("The capital of France", request_id="mine", **asked)
            steps = [output async for output in outputs]
        assert steps[-1] == last
        assert [step.finished for step in steps] == [False] * (len(steps) - 1) + [True]
        said[backend] = last
    torch, vllm = said["torch"], said["vllm"]
    assert type(torch) is type(vllm) is openllm.GenerationOutput
    assert torch.prompt_token_ids == vllm.prompt_token_ids
    assert (torch.prompt, torch.request_id) == (vllm.prompt, vllm.request_id)
    one, other = torch.outputs[0], vllm.outputs[0]
    assert (one.text, one.token_ids, one.finish_reason) == (
        other.text,
        other.token_ids,
        other.finish_reason,
    )
    assert one.cumulative_logprob == pytest.approx(other.cumulative_logprob, abs=1e-2)
