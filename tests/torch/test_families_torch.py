"""Every family that the table claims for the torch engine: a tiny checkpoint of it generates what
plain transformers generates, prompts of unlike lengths together as each alone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openllm.config.model import LoadOptions
from openllm.engines import create_engine
from openllm.engines.base import Engine
from openllm.errors import EngineStartError
from openllm.models.families import families, support_of
from openllm.types import CompletionChunk, GenerateRequest, LocalModel, SamplingParams
from tests.torch.checkpoints import RECIPES, greedy_alone, make_checkpoint

PROMPTS = (
    "Hello!",
    "one two three four five six seven",
    "The capital of France is not the sea, nor the shore near it",
    "a",
)
NEW_TOKENS = 20
# A chunk of a prompt, and less than the longest prompts: they are read in several.
OPTIONS = LoadOptions(dtype="float32", device="cpu", threads=1, prefill_chunk=16)

# Some model files of transformers use what PyTorch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


def claimed(recipe: str) -> bool:
    support = support_of(recipe.partition("/")[0])
    return support is not None and "torch" in support.runs_on


CLAIMED = [recipe for recipe in RECIPES if claimed(recipe)]
MARKED = [
    pytest.param(recipe, marks=pytest.mark.spec("S1-43"))
    if recipe in ("LlamaForCausalLM", "T5ForConditionalGeneration")
    else recipe
    for recipe in CLAIMED
]


@dataclass
class Answer:
    texts: list[str]
    token_ids: list[int]
    finish_reason: str | None

    @property
    def text(self) -> str:
        return "".join(self.texts)


@asynccontextmanager
async def started(path: Path) -> AsyncIterator[Engine]:
    model = LocalModel(name="tiny", path=str(path), format="safetensors")
    engine = create_engine("torch", model, OPTIONS)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


async def answer(engine: Engine, prompt: tuple[int, ...], **params: Any) -> Answer:
    request = GenerateRequest(
        request_id="families",
        prompt=prompt,
        params=SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, **params),
    )
    async with aclosing(engine.generate(request)) as stream:
        chunks: list[CompletionChunk] = [chunk async for chunk in stream]
    return Answer(
        [chunk.text for chunk in chunks if chunk.text],
        [token_id for chunk in chunks for token_id in chunk.token_ids],
        chunks[-1].finish_reason,
    )


def spoken(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """Return what `ids` add to the text of `prompt`; a first space counts where text goes on."""
    said: str = tokenizer.decode([*prompt, *ids], skip_special_tokens=True)
    return said.removeprefix(tokenizer.decode(prompt, skip_special_tokens=True))


@pytest.mark.anyio
@pytest.mark.parametrize("recipe", MARKED)
async def test_generates_as_transformers_does(recipe: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    path = make_checkpoint(recipe, tmp_path / "tiny")
    tokenizer = AutoTokenizer.from_pretrained(path)
    prompts = [tuple(tokenizer(prompt).input_ids) for prompt in PROMPTS]
    expected = greedy_alone(path, prompts, NEW_TOKENS)
    assert len({tuple(ids) for ids in expected}) == len(PROMPTS), "the prompt must matter"

    async with started(path) as engine:
        answers = await asyncio.gather(*(answer(engine, prompt) for prompt in prompts))
        end = expected[0][5]
        cut = await answer(engine, prompts[0], stop_token_ids=(end,))

    if RECIPES[recipe].tokenizer == "unigram":  # The answer of an encoder-decoder stands alone.
        prompts = [() for _ in prompts]
    assert [each.token_ids for each in answers] == expected
    for each, prompt, ids in zip(answers, prompts, expected, strict=True):
        assert each.text == spoken(tokenizer, prompt, ids)
        assert len(each.texts) > 1
        assert each.finish_reason == "length"
    assert cut.finish_reason == "stop"
    before = expected[0][: expected[0].index(end)]
    assert cut.text == spoken(tokenizer, prompts[0], before)


def test_every_claimed_architecture_has_a_recipe() -> None:
    names = {
        name
        for family in families()
        for support in family.architectures
        for name in support.names
        if "torch" in support.runs_on
    }
    assert names == {recipe.partition("/")[0] for recipe in CLAIMED}


def test_the_same_checkpoint_is_made_again(tmp_path: Path) -> None:
    for recipe in ("GptOssForCausalLM", "T5ForConditionalGeneration", "ChatGLMModel"):
        one, other = (make_checkpoint(recipe, tmp_path / recipe / at) for at in ("one", "other"))
        names = sorted(path.name for path in one.iterdir())
        assert "model.safetensors" in names
        assert names == sorted(path.name for path in other.iterdir())
        assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
        assert sum(path.stat().st_size for path in one.iterdir()) < 4_000_000


def test_a_family_stands_for_its_architecture(tmp_path: Path) -> None:
    made = make_checkpoint("dolly-v2", tmp_path / "dolly")
    config = json.loads((made / "config.json").read_text())
    assert config["architectures"] == ["GPTNeoXForCausalLM"]


RECURRENT = [
    recipe
    for recipe in RECIPES
    if (support := support_of(recipe)) and support.why.get("torch") == "recurrent"
]


@pytest.mark.anyio
@pytest.mark.parametrize("recipe", RECURRENT)
async def test_layers_with_a_running_state_are_refused(recipe: str, tmp_path: Path) -> None:
    path = make_checkpoint(recipe, tmp_path / "tiny")
    with pytest.raises(EngineStartError, match=recipe):
        async with started(path):
            pass
