"""`--device` places each model of a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server_process import run, serving

GREEDY: dict[str, Any] = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
SMALL = ("--context-length", "256", "--max-concurrency", "1", "--threads", "1")


@pytest.mark.spec("S0-36")
@pytest.mark.parametrize(
    "flags", [("--device", "one:cpu,two:cpu"), ("--device", "one:cpu", "--device", "two:cpu")]
)
def test_a_list_and_a_repeated_flag_place_models_alike(flags: tuple[str, ...]) -> None:
    with serving("one=demo,two=demo", *flags, *SMALL) as server:
        assert server.ready["models"] == ["one", "two"]
        texts = {
            server.post("/v1/completions", {**GREEDY, "model": name}).json()["choices"][0]["text"]
            for name in ("one", "two")
        }
    assert len(texts) == 1
    assert texts != {""}


@pytest.mark.spec("S0-36")
def test_a_device_that_is_not_here_ends_the_start() -> None:
    done = run("start", "one=demo,two=demo", "--device", "one:cpu,two:gpu:99", "--port", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "gpu:99 (cuda:99) is not on this machine" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.spec("S0-36")
def test_a_device_of_a_model_that_is_not_started_ends_the_start() -> None:
    done = run("start", "one=demo", "--device", "two:cpu", "--port", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no model 'two' is started here" in done.stderr


def test_an_engine_without_devices_ends_the_start(tmp_path: Path) -> None:
    script = tmp_path / "talk.script.json"
    script.write_text('{"default": {"reply": "one two"}}')
    done = run("start", f"demo,{script}", "--device", "talk:cpu", "--port", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'talk' runs on scripted, which has no option 'device'; leave it out" in done.stderr
