"""What requests are told while their model is not ready, with runners that die on demand."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from openllm.config.model import ModelConfig
from openllm.errors import EngineStartError, EngineUnavailableError, ModelNotFoundError
from openllm.fleet import Fleet
from openllm.fleet.served import ServedModel
from openllm.models import store
from openllm.types import LocalModel
from tests.unit.fake_runners import FakeRunner, install, model
from tests.unit.models.store_models import added
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> type[FakeRunner]:
    return install(monkeypatch)


async def refusal(served: ServedModel) -> EngineUnavailableError:
    with pytest.raises(EngineUnavailableError) as caught:
        async with served.lend():
            pass
    return caught.value


def test_an_unknown_name_is_told_what_is_served() -> None:
    fleet = Fleet([model("demo"), model("coder")])
    for name, hint in (("nope", "."), ("dmeo", "; did you mean 'demo'?")):
        with pytest.raises(ModelNotFoundError) as caught:
            fleet.resolve(name)
        assert caught.value.message == (
            f"model {name!r} is not served here{hint} Served models: demo, coder"
        )


@pytest.mark.spec("S0-12")
async def test_a_model_that_cannot_load_stays_failed_and_says_so(runners: type[FakeRunner]) -> None:
    runners.loads = False
    served = ServedModel(model(), ModelConfig(), 8)
    with pytest.raises(EngineStartError):
        await served.start()
    runners.loads = True
    await asyncio.sleep(0.2)
    error = await refusal(served)
    assert error.message == (
        "model 'demo' has failed: the file is broken; it stays so until it is started again"
    )
    assert error.retry_after == 30
    assert len(runners.made) == 1
    await served.close()


@pytest.mark.reliability("F-05")
async def test_who_waits_and_who_comes_during_a_restart(runners: type[FakeRunner]) -> None:
    served = ServedModel(model(), ModelConfig(), 8)
    assert (await refusal(served)).message == "model 'demo' is stopped"
    await served.start()
    lent: list[object] = []

    async def borrow() -> None:
        async with served.lend() as runner:
            lent.append(runner)

    async with served.lend():
        waits = asyncio.create_task(borrow())
        await until(lambda: served.waiting == 1)
        runners.made[0].die()
        await until(lambda: served.state == "restarting")
        error = await refusal(served)
        assert error.message.startswith("model 'demo' is restarting: its process ")
        assert error.retry_after == 1
    await waits
    assert lent == [runners.made[1]]
    await served.close()
    assert (await refusal(served)).message == "model 'demo' is stopped"


@pytest.mark.reliability("F-05")
async def test_who_waits_is_refused_when_the_last_restart_fails(
    runners: type[FakeRunner],
) -> None:
    served = ServedModel(model(), ModelConfig(), 8)
    await served.start()
    async with served.lend():
        waits = asyncio.create_task(refusal(served))
        await until(lambda: served.waiting == 1)
        runners.loads = False
        runners.made[0].die()
        error = await waits
    assert error.message.startswith("model 'demo' has failed: 3 crashes within 60 s; the last time")
    assert "the file is broken" in error.message
    assert len(runners.made) == 3
    await served.close()


@pytest.mark.reliability("F-05")
async def test_trouble_of_any_kind_is_the_models_failure(runners: type[FakeRunner]) -> None:
    runners.trouble = OSError(28, "No space left on device")
    fleet = Fleet([model("one"), model("two")])
    runners.breaks = {"/models/one.gguf"}
    failures = await fleet.start()
    assert "No space left on device" in failures["one"].message
    assert (await refusal(fleet.find("one"))).message.startswith("model 'one' has failed: OSError")
    two = fleet.find("two")
    runners.loads = False
    runners.made[1].die()
    await until(lambda: two.state == "failed")
    assert "it could not be loaded again: OSError(28, 'No space" in (await refusal(two)).message
    await fleet.close()


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalModel:
    """A model of the store."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    stored = added()
    return LocalModel(name="demo", path=stored.folder, format="safetensors", tag=stored.tag)


@pytest.mark.reliability("F-07")
async def test_a_served_model_stays_in_the_store(
    runners: type[FakeRunner], local: LocalModel
) -> None:
    served = ServedModel(local, ModelConfig(), 8)
    await served.start()
    await asyncio.sleep(0.01)
    runners.made[0].die()  # Until the next one has loaded it, no process of an engine holds it.
    assert store.collect(quota=0).models == ()
    await until(lambda: len(runners.made) == 2)
    await served.close()
    assert [each.tag for each in store.collect(quota=0).models] == [local.tag]


async def test_a_model_that_cannot_load_may_be_removed(
    runners: type[FakeRunner], local: LocalModel
) -> None:
    runners.loads = False
    served = ServedModel(local, ModelConfig(), 8)
    with pytest.raises(EngineStartError):
        await served.start()
    assert [each.tag for each in store.collect(quota=0).models] == [local.tag]
    await served.close()
