"""Every command ends with the statuses that docs/command_line.md promises."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import click
import pytest
from click.testing import CliRunner

from openllm import errors
from openllm.cli import _COMMANDS, main
from openllm.cli.ending import FAILED, INTERRUPTED, MISTAKEN, status_of
from openllm.models import store
from tests.unit.models.store_models import added

CONFIG = ("config show", "config check", "config schema", "config docs")
EVERY = (*(name for name in _COMMANDS if name != "config"), *CONFIG)
PULLING = ("--download-retries", "0")

MISTAKES = (
    "start nope", "start ./none.gguf", "start --port many", "start --opt nothing=1",
    "start --config none.yaml", "start demo --model demo", "start --port 1 --port 2",
    "pull", "pull nope", "pull demo --download-parallel none", "pull a:b@c --offline",
    "list extra", "list --models-dir {file}",
    "show nope", "show", "rm nope", "rm", "verify nope",
    "gc --store-quota much", "gc --models-dir {file}",
    "models nope", "fit nope", "fit demo --dtype int3", "fit demo,two=demo",
    "fit demo --backend abacus", "fit org/name --offline",
    "config", "config nothing", "config show nope", "config show --port many",
    "config check none.yaml", "config check {file}", "config docs extra", "config schema extra",
    "doctor extra", "doctor --models-dir {file}",
    "query --url ftp://x Hi", "query --temperature nan Hi", "query --top-k many Hi",
    "chat --url ftp://x", "chat --max-tokens 0", "chat extra",
    "bench nonsense", "bench --rate nan", "bench --prompt-tokens many",
    "bench --compare nonsense", "bench --prompt-file {file}",
    "nope", "--nope",
)  # fmt: skip
"""What the user has to write differently."""

UNREACHABLE = ("start", "pull", "fit", "query", "chat", "bench")
"""Commands that need something on the network."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "store"))
    monkeypatch.setattr("openllm.cli.start._set_up_logging", lambda _: None)
    level = logging.getLogger("openllm").level
    yield
    logging.getLogger("openllm").setLevel(level)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def status(line: str) -> int:
    done = CliRunner().invoke(main, line.split(), input="Hi\n")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    assert done.exit_code == 0 or done.output != ""
    return done.exit_code


@pytest.mark.parametrize("command", EVERY)
def test_an_unknown_flag_is_a_mistake(command: str) -> None:
    assert status(f"{command} --no-such-flag") == MISTAKEN


@pytest.mark.parametrize("command", ["", "config", *EVERY])
def test_help_is_none(command: str) -> None:
    assert status(f"{command} --help") == 0


@pytest.mark.parametrize("line", MISTAKES)
def test_what_is_written_wrongly_is_a_mistake(line: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "wrong.yaml").write_text("prot: 1\n")
    file = "wrong.yaml" if line.startswith("config") else "empty"
    assert status(line.format(file=file)) == MISTAKEN


def test_every_command_can_be_mistaken() -> None:
    told = {line.split()[0] for line in MISTAKES}
    assert told >= set(_COMMANDS)


@pytest.mark.parametrize("command", UNREACHABLE)
def test_what_cannot_be_reached_is_a_failure(
    command: str, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", nobody)
    rest = {"query": f"--url {nobody} Hi", "chat": f"--url {nobody}", "bench": nobody}
    asked = f"org/name {' '.join(PULLING)}{' --port 0' if command == 'start' else ''}"
    assert status(f"{command} {rest.get(command, asked)}") == FAILED


def test_what_is_not_as_it_should_be_is_a_failure() -> None:
    model = added()
    holding = store.hold(model)
    assert status(f"rm {model.tag}") == FAILED
    assert status("gc --store-quota 1") == FAILED
    holding.close()
    Path(model.folder, "config.json").write_bytes(b"{ }")
    assert status("verify") == FAILED
    Path(model.folder, "model.yaml").write_bytes(b"{broken")
    assert status(f"show {model.tag}") == FAILED
    assert status("verify") == FAILED


def test_a_store_that_cannot_be_used_is_a_mistake_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "file" / "store"))
    lines = ("list", "show x", "rm x", "verify", "gc", "models", f"pull org/x {' '.join(PULLING)}")
    assert {line: status(line) for line in lines} == dict.fromkeys(lines, MISTAKEN)


@pytest.mark.parametrize("name", _COMMANDS)
def test_ctrl_c_is_130(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def command() -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(_COMMANDS[name][0].replace(":", "."), command)
    assert status(name) == INTERRUPTED


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (errors.ConfigurationError, 2), (errors.ModelFileError, 2), (errors.AddressInUseError, 2),
        (errors.InvalidRequestError, 2), (errors.ContextLengthError, 2),
        (errors.UnsupportedError, 2), (errors.ModelNotFoundError, 2),
        (errors.ModelFetchError, 1), (errors.OverloadedError, 1), (errors.DeadlineError, 1),
        (errors.EngineNotInstalledError, 1), (errors.OutOfMemoryError, 1),
        (errors.EngineCrashedError, 1), (errors.EngineUnavailableError, 1),
    ],
)  # fmt: skip
def test_the_status_of_an_error(error: type[errors.OpenLLMError], ends: int) -> None:
    assert status_of(error("why")) == ends


def test_what_the_system_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def command() -> NoReturn:
        raise PermissionError(13, "Permission denied", "/a/file")

    monkeypatch.setattr("openllm.cli.list_models.list_models", command)
    done = CliRunner().invoke(main, ["list"])
    assert (done.exit_code, done.stderr) == (1, "Error: /a/file: Permission denied\n")
