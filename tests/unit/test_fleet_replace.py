"""Other models in the place of those that are served."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from openllm.config.model import LoadOptions, ModelConfig, RequestDefaults
from openllm.errors import ConfigurationError, EngineUnavailableError, ModelNotFoundError
from openllm.fleet import Fleet, Replaced
from openllm.types import LocalModel
from tests.unit.fake_runners import FakeRunner, install, model
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.reliability("F-15")]

NOTHING = Replaced((), (), (), (), {}, ())


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> type[FakeRunner]:
    return install(monkeypatch)


def names(runners: type[FakeRunner], *, closed: bool = False) -> list[str]:
    return [each.model.name for each in runners.made if each.closed == closed]


async def started(*models: LocalModel, **configs: ModelConfig) -> Fleet:
    fleet = Fleet(models, configs)
    assert not await fleet.start()
    return fleet


async def test_models_come_and_go_and_the_others_stay(runners: type[FakeRunner]) -> None:
    fleet = await started(model("a"), model("b"))
    replaced = await fleet.replace([model("c"), model("b")])
    assert replaced == NOTHING._replace(added=("c",), removed=("a",))
    assert names(runners) == ["b", "c"]
    assert names(runners, closed=True) == ["a"]
    assert fleet.ready
    assert fleet.resolve(None) == "c"
    with pytest.raises(ModelNotFoundError, match="Served models: c, b"):
        fleet.resolve("a")
    await fleet.close()
    assert names(runners) == []


async def test_a_model_that_is_held_is_closed_later(runners: type[FakeRunner]) -> None:
    fleet = await started(model("a"), model("b"))
    served = fleet.find("a")
    with served.hold():
        replacing = asyncio.create_task(fleet.replace([model("b")], grace=60))
        await until(lambda: len(fleet.statuses()) == 1)
        await asyncio.sleep(0.2)
        assert names(runners, closed=True) == []
        async with served.lend() as runner:
            assert runner is runners.made[0]
    await replacing
    assert names(runners, closed=True) == ["a"]
    await fleet.close()


async def test_defaults_of_requests_change_in_place(runners: type[FakeRunner]) -> None:
    fleet = await started(model("a"), model("b"))
    config = ModelConfig(defaults=RequestDefaults(temperature=0.5))
    replaced = await fleet.replace([model("a"), model("b")], {"a": config})
    assert replaced == NOTHING._replace(defaults=("a",))
    assert fleet.defaults("a").temperature == 0.5
    assert fleet.defaults("b").temperature is None
    assert len(runners.made) == 2
    # A process that takes the place of a dead one begins with what holds then.
    runners.made[0].die()
    await until(lambda: len(runners.made) == 3)
    assert runners.made[2].config.defaults.temperature == 0.5
    await fleet.close()


@pytest.mark.parametrize("what", ["options", "files", "prompt", "prompt file", "model"])
async def test_what_was_changed_is_started_again(
    runners: type[FakeRunner], what: str, tmp_path: Path
) -> None:
    path, prompt = tmp_path / "a.gguf", tmp_path / "prompt.txt"
    path.write_text("one")
    prompt.write_text("Be brief.")
    models, config = [model("a", str(path))], ModelConfig()
    if what == "prompt file":
        config = ModelConfig(defaults=RequestDefaults(prompt=str(prompt)))
    fleet = await started(*models, model("b"), a=config)
    if what == "options":
        config = ModelConfig(load=LoadOptions(context_length=5))
    elif what == "files":
        os.utime(path, (1, 1))
    elif what == "prompt":
        config = ModelConfig(defaults=RequestDefaults(prompt="Be brief."))
    elif what == "prompt file":
        prompt.write_text("Be verbose.")
    else:
        models = [model("a", str(tmp_path / "other.gguf"))]
    replaced = await fleet.replace([*models, model("b")], {"a": config})
    assert replaced == NOTHING._replace(restarted=("a",))
    first, _, second = runners.made
    assert (first.closed, second.closed) == (True, False)
    assert (second.model, second.config) == (models[0], config)
    await fleet.close()


async def test_what_is_stored_under_a_tag_does_not_change(
    runners: type[FakeRunner], tmp_path: Path
) -> None:
    (tmp_path / "record").touch()
    stored = LocalModel(name="a", path=str(tmp_path), format="safetensors", tag="pt-a:1")
    fleet = await started(stored)
    os.utime(tmp_path / "record", (1, 1))  # As a use of it does.
    assert await fleet.replace([stored]) == NOTHING
    assert len(runners.made) == 1
    await fleet.close()


async def test_a_failed_model_is_started_again(runners: type[FakeRunner]) -> None:
    runners.breaks = {model("a").path}
    fleet = Fleet([model("a"), model("b")])
    assert set(await fleet.start()) == {"a"}
    again = await fleet.replace([model("a"), model("b")])
    assert set(again.failures) == {"a"}
    assert fleet.status("b").state == "ready"
    runners.breaks = set()
    assert (await fleet.replace([model("a"), model("b")])).restarted == ("a",)
    assert fleet.ready
    await fleet.close()


async def test_what_cannot_be_loaded_goes_on_as_it_was(runners: type[FakeRunner]) -> None:
    fleet = await started(model("a"), model("b"))
    wrong = model("a", "/models/wrong.gguf")
    runners.breaks = {wrong.path}
    for _ in range(2):  # It is tried each time.
        replaced = await fleet.replace([wrong, model("b")])
        assert set(replaced.failures) == {"a"}
        assert replaced.restored == ("a",)
        assert fleet.ready
        assert [each.model for each in runners.made if not each.closed] == [model("b"), model("a")]
    assert fleet.resolve(None) == "a"
    runners.breaks = {wrong.path, model("a").path}
    assert (await fleet.replace([wrong, model("b")])).restored == ()
    assert fleet.status("a").state == "failed"
    await fleet.close()


async def test_requests_that_a_closed_model_has_are_finished(runners: type[FakeRunner]) -> None:
    fleet = await started(model("a"), model("b"))
    served, config = fleet._served["a"], ModelConfig(load=LoadOptions(context_length=5))
    done: list[str] = []

    async def waits() -> None:
        async with served.lend():
            done.append("waited")

    async with served.lend():
        waiting = asyncio.create_task(waits())
        await until(lambda: served.waiting == 1)
        replacing = asyncio.create_task(
            fleet.replace([model("a"), model("b")], {"a": config}, grace=60)
        )
        await until(lambda: fleet.status("a").state == "loading")
        with pytest.raises(EngineUnavailableError, match="is loading") as refused:
            async with fleet._served["a"].lend():
                pass
        assert refused.value.retry_after == 1
        async with fleet._served["b"].lend():
            pass
        await asyncio.sleep(0.1)
        assert not runners.made[0].closed
        assert len(runners.made) == 2
    await waiting
    assert (await replacing).restarted == ("a",)
    assert done == ["waited"]
    assert runners.made[0].closed
    assert fleet.ready
    await fleet.close()


async def test_the_grace_ends(runners: type[FakeRunner]) -> None:
    fleet = await started(model("a"), model("b"))
    async with fleet._served["a"].lend():
        await fleet.replace([model("b")], grace=0.1)
        assert runners.made[0].closed
    await fleet.close()


async def test_the_end_of_the_server_closes_what_is_still_at_work(
    runners: type[FakeRunner],
) -> None:
    fleet = await started(model("a"), model("b"))
    async with fleet._served["a"].lend():
        replacing = asyncio.create_task(fleet.replace([model("b"), model("c")], grace=60))
        await until(lambda: bool(fleet._leaving))
        replacing.cancel()
        await asyncio.wait([replacing])
        await fleet.close()
    assert names(runners) == []
    assert names(runners, closed=True) == ["a", "b"]


async def test_totals_of_a_name_only_grow(runners: type[FakeRunner]) -> None:
    fleet = await started(model("a"))
    measures = fleet._served["a"].measures
    await fleet.replace([model("a")], {"a": ModelConfig(load=LoadOptions(context_length=5))})
    assert fleet._served["a"].measures is measures
    await fleet.close()


async def test_a_prompt_that_cannot_be_read_changes_nothing(
    runners: type[FakeRunner], tmp_path: Path
) -> None:
    (tmp_path / "latin.txt").write_bytes(b"Gr\xfc\xdfe")
    fleet = await started(model("a"))
    config = ModelConfig(defaults=RequestDefaults(prompt=str(tmp_path / "latin.txt")))
    with pytest.raises(ConfigurationError, match=r"latin\.txt"):
        await fleet.replace([model("b")], {"b": config})
    assert fleet.resolve("a") == "a"
    assert names(runners) == ["a"]
    await fleet.close()
