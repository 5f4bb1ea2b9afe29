"""The families that the table claims for vLLM: those of the documents load and generate, and the
installed vLLM has all the others in its registry.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from openllm.config.model import LoadOptions
from openllm.engines import create_engine
from openllm.engines.base import Engine
from openllm.engines.vllm_presence import unfit
from openllm.models.families import families, support_of
from openllm.types import GenerateRequest, LocalModel, SamplingParams
from tests.torch.checkpoints import greedy_alone, make_checkpoint

pytestmark = [
    # Some model files of transformers use what PyTorch deprecates.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
    # vLLM's client drops its ZeroMQ context when it shuts down, and does not close it.
    pytest.mark.filterwarnings("ignore:Unclosed context <zmq:ResourceWarning"),
]

PROMPTS = ("Hello!", "The capital of France is not the sea")
NEW_TOKENS = 12
OPTIONS = LoadOptions(
    dtype="float32", enforce_eager=True, context_length=256, max_concurrency=4, threads=1
)

# Each has an engine process of its own, which takes long to start: one shape of each is enough.
STARTED = (
    "BloomForCausalLM",
    "ChatGLMModel",
    "FalconForCausalLM",
    "GPTBigCodeForCausalLM",
    "GPTNeoXForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "OPTForCausalLM",
    "PhiForCausalLM",
    "StableLmForCausalLM",
)

SUPPORTS = {
    name: support
    for family in families()
    for support in family.architectures
    for name in support.names
}


async def greedy(engine: Engine, prompt: tuple[int, ...]) -> tuple[list[int], str, str | None]:
    """Return the tokens, the text and the finish reason of an answer."""
    params = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS)
    request = GenerateRequest(request_id=f"families-{len(prompt)}", prompt=prompt, params=params)
    async with aclosing(engine.generate(request)) as stream:
        chunks = [chunk async for chunk in stream]
    ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
    return ids, "".join(chunk.text for chunk in chunks), chunks[-1].finish_reason


@pytest.mark.anyio
@pytest.mark.parametrize("architecture", STARTED)
async def test_generates_as_transformers_does(architecture: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    path = make_checkpoint(architecture, tmp_path / "tiny")
    # A ChatGLM checkpoint has the weights of a Glm one, which transformers can run.
    known = "GlmForCausalLM" if architecture == "ChatGLMModel" else architecture
    twin = make_checkpoint(known, tmp_path / "twin")
    tokenizer = AutoTokenizer.from_pretrained(twin)
    prompts = [tuple(tokenizer(prompt).input_ids) for prompt in PROMPTS]
    expected = greedy_alone(twin, prompts, NEW_TOKENS)

    model = LocalModel(name="tiny", path=str(path), format="safetensors")
    engine = create_engine("vllm", model, OPTIONS)
    try:
        await engine.start()
        answers = await asyncio.gather(*(greedy(engine, prompt) for prompt in prompts))
    finally:
        await engine.close()

    for (ids, text, finish_reason), right in zip(answers, expected, strict=True):
        assert ids == right
        assert text.strip() == tokenizer.decode(right, skip_special_tokens=True).strip()
        assert finish_reason == "length"


@pytest.mark.parametrize("name", [each for each in SUPPORTS if "vllm" in SUPPORTS[each].runs_on])
def test_vllm_knows_what_the_table_claims(name: str) -> None:
    assert unfit(name) is None


@pytest.mark.parametrize(
    "name", [each for each in SUPPORTS if "vllm" not in SUPPORTS[each].runs_on]
)
def test_vllm_does_not_know_the_others(name: str) -> None:
    reason = unfit(name)
    assert reason is not None
    assert name in reason


@pytest.mark.parametrize("name", [each for each in SUPPORTS if SUPPORTS[each].last.get("vllm")])
def test_the_last_version_is_the_one_that_vllm_says(name: str) -> None:
    from vllm.model_executor.models.registry import _PREVIOUSLY_SUPPORTED_MODELS

    support = support_of(name)
    assert support is not None
    if name != "YiForCausalLM":  # Removed before vLLM kept this list: in 0.3.1.
        assert support.last["vllm"] == _PREVIOUSLY_SUPPORTED_MODELS[name]
