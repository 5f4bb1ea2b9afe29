"""`openllm start` up to the point where it would serve: flags, errors, exit status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from click.testing import CliRunner, Result

from openllm.bento import launch
from openllm.bento.options import OPTION_MODELS
from openllm.cli import main
from openllm.errors import AddressInUseError, ConfigurationError, EngineNotInstalledError


class Launches:
    """Stands for `launch.run`; remembers what it was given."""

    def __init__(self, end: int | Exception) -> None:
        self._end = end
        self.model = ""
        self.options: Mapping[str, object] = {}

    def run(self, model: str, options: Mapping[str, object]) -> int:
        self.model, self.options = model, options
        if isinstance(self._end, Exception):
            raise self._end
        return self._end


def start(
    monkeypatch: pytest.MonkeyPatch, *arguments: str, end: int | Exception = 0, **environment: str
) -> tuple[Result, Launches]:
    launches = Launches(end)
    monkeypatch.setattr(launch, "run", launches.run)
    monkeypatch.setattr("openllm.cli.start._set_up_logging", lambda _: None)
    return CliRunner(env=environment).invoke(main, ["start", *arguments]), launches


def test_only_flags_that_are_given_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    _, launches = start(monkeypatch)
    assert (launches.model, launches.options) == ("demo", {})


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--top_k", "7"], {"top_k": "7"}),
        (["--top-k", "7"], {"top_k": "7"}),
        (["--opt", "top-k=7"], {"top_k": "7"}),
        (["--stop-sequence", "a", "--stop_sequence", "b"], {"stop_sequence": ("a", "b")}),
        (["--opt", "stop_sequence=a", "--opt", "stop-sequence=b"], {"stop_sequence": ("a", "b")}),
        (["--opt", "engine-arg=a=1"], {"engine_arg": ("a=1",)}),
        (["--no-embeddings"], {"embeddings": False}),
        (["--access_log"], {"access_log": True}),
        (["--opt", "model=x"], {"model": "x"}),
    ],
)
def test_flags_become_options(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], options: dict[str, Any]
) -> None:
    _, launches = start(monkeypatch, *arguments)
    assert launches.options == options


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    _, launches = start(monkeypatch, OPEN_LLM_API_KEY="one two")
    assert launches.options == {"api_key": ("one", "two")}


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (2, 2, ""),
        (ConfigurationError("it is wrong"), 2, "Error: it is wrong\n"),
        (EngineNotInstalledError("run: pip install it"), 1, "Error: run: pip install it\n"),
        (AddressInUseError("choose --port", param="port"), 2, "Error: choose --port\n"),
        (
            ConfigurationError("'a b' is no name", param="allowed_host"),
            2,
            "Error: --allowed-host: 'a b' is no name\n",
        ),
        (ConfigurationError("unknown option 'x'", param="x"), 2, "Error: unknown option 'x'\n"),
    ],
)
def test_the_end_decides_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, end: int | Exception, status: int, said: str
) -> None:
    done, _ = start(monkeypatch, end=end)
    assert (done.exit_code, done.stdout, done.stderr) == (status, "", said)


@pytest.mark.parametrize("opt", ["x", "=x", ""])
def test_an_opt_without_a_name_or_value_is_refused(
    monkeypatch: pytest.MonkeyPatch, opt: str
) -> None:
    done, _ = start(monkeypatch, "--opt", opt)
    assert done.exit_code == 2
    assert "is not NAME=VALUE" in done.stderr


def test_help_has_every_option_and_its_choices() -> None:
    text = CliRunner().invoke(main, ["start", "--help"], terminal_width=200).stdout
    for model in OPTION_MODELS:
        for name in model.model_fields:
            assert "--" + name.replace("_", "-") in text
    assert "[auto|float32|bfloat16|float16]" in text
    assert "0 picks a free one, and the ready line is then JSON" in " ".join(text.split())
