"""What holds for every command: typos, Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click
import pytest
from click.testing import CliRunner

from openllm.cli import _COMMANDS, main


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("strat", "no such command 'strat'; did you mean 'start'?"),
        ("qery", "did you mean 'query'?"),
        ("xyz", f"no such command 'xyz'; there are: {', '.join(_COMMANDS)}"),
    ],
)
def test_a_mistyped_command_is_guessed(typed: str, says: str) -> None:
    done = CliRunner().invoke(main, [typed, "--port", "80"])
    assert done.exit_code == 2
    assert says in done.stderr


def test_a_mistyped_option_before_the_command_is_named() -> None:
    done = CliRunner().invoke(main, ["--prot", "80", "start"])
    assert done.exit_code == 2
    assert "--prot" in done.stderr


def test_ctrl_c_is_one_quiet_line(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def start() -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("openllm.cli.start.start", start)
    done = CliRunner().invoke(main, ["start"])
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


@pytest.mark.spec("S0-22")
@pytest.mark.parametrize(
    "line",
    [
        "start --top_k many", "config show --top_k many", "pull --download_rate many demo",
        "fit --context_length many demo", "gc --store_quota many", "list --models_dir {file}",
        "query --top_k many Hi", "chat --top_k many", "bench --prompt_tokens many",
    ],
)  # fmt: skip
def test_underscores_are_hyphens_in_every_command(line: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(main, line.format(file=tmp_path / "file").split())
    typed = next(word for word in line.split() if word.startswith("--"))
    assert done.exit_code == 2
    assert typed.replace("_", "-") in done.stderr
    assert "No such option" not in done.stderr
