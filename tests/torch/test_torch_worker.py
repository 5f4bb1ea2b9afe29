"""The thread that computes: what is left when it ends, by whatever way, and rows of adapters."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from openllm.engines.torch_cache import KVWindow
from openllm.engines.torch_lora import Lora
from openllm.engines.torch_worker import Worker
from openllm.errors import EngineError, EngineUnavailableError
from tests.torch.checkpoints import make_checkpoint
from tests.torch.greedy import engine, tokens
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_what_waits_when_the_thread_is_closed_is_not_begun() -> None:
    worker = Worker()
    entered, leave = threading.Event(), threading.Event()
    begun: list[str] = []

    def hold() -> None:
        entered.set()
        leave.wait(30)

    held = asyncio.create_task(worker.call(hold))
    await asyncio.to_thread(entered.wait, 30)
    waiting = asyncio.create_task(worker.call(lambda: begun.append("waiting")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(worker.close())
    await asyncio.sleep(0)
    leave.set()
    await closing
    await held
    with pytest.raises(EngineUnavailableError):
        await waiting
    assert begun == []


async def test_work_that_exits_fails_and_ends_no_thread() -> None:
    worker = Worker()

    def leave() -> None:
        raise SystemExit("this model needs another package")

    try:
        with pytest.raises(EngineError, match="needs another package"):
            await asyncio.wait_for(worker.call(leave), 30)
        assert await worker.call(lambda: "more") == "more"
    finally:
        await worker.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_dies_leaves_nobody_waiting(tmp_path: Path) -> None:
    async with engine(make_checkpoint("llama", tmp_path / "model")) as made:

        def die() -> Any:
            raise SystemExit  # As a fault in native code: no `Exception`.

        made._worker.scheduler.turn = die
        with pytest.raises(EngineUnavailableError):
            await tokens(made, [12, 13])
        with pytest.raises(EngineUnavailableError):
            await made.embed([(12, 13)])
        assert not await made.health()


async def test_a_cancelled_row_that_cannot_leave_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine(make_checkpoint("llama", tmp_path / "model")) as made:
        alone = await tokens(made, [12, 13, 14])
        leave, failed = KVWindow.leave, threading.Event()

        def fail_once(window: KVWindow, row: int, longest: int) -> None:
            if not failed.is_set():
                failed.set()
                raise RuntimeError("a fault of the card")
            leave(window, row, longest)

        long = asyncio.create_task(tokens(made, [20, 21], max_tokens=400, ignore_eos=True))
        await until(lambda: made.active == 1)
        monkeypatch.setattr(KVWindow, "leave", fail_once)
        long.cancel()
        await until(failed.is_set)
        assert await tokens(made, [12, 13, 14]) == alone
        assert await made.health()


def test_rows_of_adapters_are_forgotten_when_choosing_them_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model: Any = torch.nn.Linear(2, 2)
    model.device = torch.device("cpu")
    lora = Lora(model, ())
    lora._names = frozenset(("one", "other"))
    made = iter((torch.zeros(1), RuntimeError("a fault of the card")))

    def tensor(*_: Any, **__: Any) -> torch.Tensor:
        found = next(made)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(torch, "tensor", tensor)
    with pytest.raises(RuntimeError, match="fault"), lora.on(["one", "other", ""]):
        pytest.fail("the model was run")
    assert lora._groups == []
