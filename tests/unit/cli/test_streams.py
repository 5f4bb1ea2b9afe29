"""Commands without a terminal, without standard streams, and with encodings that lack letters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from openllm.cli import main
from openllm.cli.streams import as_text
from openllm.errors import InvalidRequestError

OPENLLM = (sys.executable, "-m", "openllm.cli")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
WRITERS = ("--help", "models", "config docs", "config show", "fit demo", "list --json")


def sh(script: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the shell, where $O is the command."""
    return subprocess.run(
        ["/bin/bash", "-c", script.replace("$O", " ".join(OPENLLM))],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        env={**os.environ, "BENTOML_HOME": str(folder), "HF_HUB_OFFLINE": "1", **environ},
        encoding="utf-8",
        errors="replace",
        check=False,
    )


@pytest.mark.parametrize("command", WRITERS)
def test_a_reader_that_goes_away_is_not_worth_a_word(command: str, tmp_path: Path) -> None:
    theirs, ours = os.pipe()
    os.close(theirs)
    done = subprocess.run(
        [*OPENLLM, *command.split()],
        stdout=ours,
        stderr=subprocess.PIPE,
        timeout=120,
        env={**os.environ, "BENTOML_HOME": str(tmp_path)},
        check=False,
    )
    os.close(ours)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk_is_one_line(command: str, tmp_path: Path) -> None:
    done = sh(f"$O {command} > /dev/full", tmp_path)
    said = "Error: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("models >&-", 0, ""),
        ("pull --json demo >&-", 0, ""),
        ("pull nope 2>&-", 2, ""),
        ("pull nope 2>/dev/full", 2, ""),
        ("query <&-", 2, "the question is empty"),
        ("chat --url http://127.0.0.1:9 <&-", 1, "cannot reach"),
        ("bench --url http://127.0.0.1:9 <&- >&-", 1, "cannot reach"),
        ("verify <&- >&- 2>&-", 0, ""),
    ],
)
def test_closed_streams_lead_nowhere(command: str, status: int, said: str, tmp_path: Path) -> None:
    done = sh(f"$O {command}", tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code = (
        "import os; from openllm.cli.streams import open_streams; open_streams();"
        " file = open('f', 'w'); assert file.fileno() > 2; os.write(1, b'lost');"
        " os.write(2, b'lost'); print('lost too')"
    )
    done = sh(f'cd {tmp_path}; {sys.executable} -c "{code}" <&- >&- 2>&-', tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "f").read_text() == ""


@pytest.mark.parametrize(
    ("environ", "shown"),
    [(ASCII, "h\u00e9 \u4e2d"), ({"PYTHONIOENCODING": "latin-1"}, "h\ufffd ?")],
)
def test_letters_that_the_locale_lacks_end_nothing(
    environ: dict[str, str], shown: str, tmp_path: Path
) -> None:
    code = (
        "from openllm.cli.streams import open_streams; open_streams();"
        " from openllm.cli.remote import write_reply; write_reply('h\\u00e9 \\u4e2d')"
    )
    done = sh(f'{sys.executable} -c "{code}"', tmp_path, **environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


def test_bytes_that_the_locale_could_not_read_are_utf_8() -> None:
    assert as_text("plain \u00e9", "the text") == "plain \u00e9"
    assert as_text(os.fsdecode("\u00e9".encode()), "the text") == "\u00e9"
    with pytest.raises(InvalidRequestError, match="the text is not UTF-8"):
        as_text("\udcff", "the text")


def test_a_question_is_utf_8_in_any_locale(tmp_path: Path) -> None:
    for said in ("$'\\xff'", "- <<< $'\\xff'"):
        done = sh(f"$O query --url http://127.0.0.1:9 {said}", tmp_path)
        assert (done.returncode, done.stderr) == (
            2,
            "Error: the question is not UTF-8; write it as UTF-8\n",
        )
    done = sh("$O query --url http://127.0.0.1:9 h\u00e9", tmp_path, **ASCII)
    assert (done.returncode, "cannot reach" in done.stderr) == (1, True)


def test_an_error_does_not_move_the_cursor(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text('"a\\u001b[2Jb\\u009d": 1\nprot: 2\n')
    done = CliRunner().invoke(main, ["config", "check", str(tmp_path / "a.yaml")], color=True)
    assert done.exit_code == 2
    assert "line 1: a[2Jb: there is no such option" in done.stderr
    assert len(done.stderr.splitlines()) == 3
