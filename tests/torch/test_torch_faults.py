"""Passes that fail, numbers that are not finite, and an end in the middle of a request."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from openllm.engines.torch_cache import KVWindow
from openllm.errors import EngineError, EngineUnavailableError, OutOfMemoryError
from openllm.types import GenerateRequest, SamplingParams
from tests.torch.checkpoints import make_checkpoint
from tests.torch.greedy import engine, tokens

pytestmark = pytest.mark.anyio


BAD = 9
"""A token that stands in no prompt."""


def prompts(count: int) -> list[list[int]]:
    chance = random.Random(3)
    lengths = [chance.randint(3, 40) for _ in range(count)]
    return [[chance.randrange(10, 200) for _ in range(length)] for length in lengths]


def spoil(made: Any, fault: Callable[[torch.Tensor], Exception | None]) -> None:
    """Let a pass fail with what `fault` returns for its token ids [rows, new], if anything."""
    forward = made.model.forward

    def spoilt(*given: torch.Tensor, **options: Any) -> Any:
        error = fault(given[0] if given else options["decoder_input_ids"])
        if error is not None:
            raise error
        return forward(*given, **options)

    made.model.forward = spoilt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("what", ["llama", "flan-t5"])
async def test_memory_that_ends_with_three_rows_fails_nobody(what: str, tmp_path: Path) -> None:
    async with engine(make_checkpoint(what, tmp_path / "model")) as made:
        asked = prompts(7)
        alone = [await tokens(made, prompt) for prompt in asked]
        spoil(made, lambda ids: torch.OutOfMemoryError("CUDA") if len(ids) > 2 else None)
        assert await asyncio.gather(*(tokens(made, prompt) for prompt in asked)) == alone
        assert made.active == 0


async def test_memory_that_ends_while_the_cache_grows_fails_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine(folder) as made:
        asked = prompts(7)
        alone = [await tokens(made, prompt) for prompt in asked]
        resize = KVWindow._resize

        def small(window: KVWindow, rows: int, columns: int) -> None:
            if rows > 2:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            resize(window, rows, columns)

        monkeypatch.setattr(KVWindow, "_resize", small)
        assert await asyncio.gather(*(tokens(made, prompt) for prompt in asked)) == alone


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), OutOfMemoryError),
        (IndexError("index out of range in self"), EngineError),
    ],
)
@pytest.mark.parametrize("when", ["reading", "saying"])
async def test_only_the_request_that_fails_alone_fails(
    folder: Path, error: Exception, raised: type[EngineError], when: str
) -> None:
    async with engine(folder) as made:
        asked = prompts(6)
        alone = [await tokens(made, prompt) for prompt in asked]
        spoil(made, lambda ids: error if bool((ids == BAD).any()) else None)
        read: dict[str, Any] = {"prompt": [12, 13, BAD]}
        said: dict[str, Any] = {"prompt": [12, 13], "logit_bias": {BAD: 100.0}}
        fatal = tokens(made, **(read if when == "reading" else said))
        *answers, failure = await asyncio.gather(
            *(tokens(made, prompt) for prompt in asked), fatal, return_exceptions=True
        )
        assert answers == alone
        assert type(failure) is raised
        assert await made.health()
        assert await tokens(made, asked[0]) == alone[0]


async def test_numbers_that_are_not_finite_stay_with_who_made_them(folder: Path) -> None:
    """What a row leaves behind is masked for the next in its place, but NaN times 0 is NaN."""
    async with engine(folder, max_concurrency=4) as made:
        asked = [list(range(20, 20 + length)) for length in (30, 5, 7)]
        alone = [await tokens(made, prompt) for prompt in asked]
        with torch.inference_mode():
            made.model.get_input_embeddings().weight[BAD] = torch.nan
        for _ in range(6):
            fatal = tokens(made, range(50, 90), logit_bias={BAD: 100.0})
            failure, *answers = await asyncio.gather(
                fatal, *(tokens(made, prompt) for prompt in asked), return_exceptions=True
            )
            assert "not finite" in str(failure)
            assert answers == alone


async def test_a_request_that_comes_with_the_end_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ended = threading.Event(), threading.Event()
    async with engine(folder) as made:
        make = made._make_job

        def slowly(*given: Any) -> Any:
            began.set()
            ended.wait(60)
            return make(*given)

        monkeypatch.setattr(made, "_make_job", slowly)
        params = SamplingParams(max_tokens=4, grammar='root ::= "a"')  # Compiled in a thread.
        asked = GenerateRequest(request_id="r", prompt=(12, 13), params=params)
        task = asyncio.ensure_future(anext(made.generate(asked)))
        await asyncio.to_thread(began.wait, 60)
        await made.close()
        ended.set()
        with pytest.raises(EngineUnavailableError):
            await asyncio.wait_for(task, 60)


async def test_embeddings_let_the_others_go_on(folder: Path) -> None:
    async with engine(folder) as made:
        many = [tuple(range(10, 200))] * 200  # A dozen passes and more.
        embedding = asyncio.create_task(made.embed(many))
        await asyncio.sleep(0)
        await tokens(made, [12, 13], max_tokens=2)
        assert not embedding.done()
        assert len((await embedding).vectors) == 200
