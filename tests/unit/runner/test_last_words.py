"""A child's standard error: handed on to ours as it is, and the last line of it kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from openllm.runner.last_words import KEPT, LONGEST, LastWords


def written(data: bytes) -> LastWords:
    words = LastWords()
    os.write(words.writing, data)
    os.close(words.writing)
    words.drain()
    return words


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"first\nlast\n", "last"),
        (b"first\nlast, unfinished", "last, unfinished"),
        (b"done\n\n \n", "done"),
        (b" 5 %\r 99 %", "99 %"),
        (b"\x1b[31mred\x07", "?[31mred?"),
        (b"naive: na\xc3\xafve, broken: \xff", "naive: na\u00efve, broken: \ufffd"),
        (b"x" * (2 * KEPT), "x" * LONGEST),
    ],
)
def test_the_last_line_is_kept(
    data: bytes, line: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert written(data).line == line
    assert capfdbinary.readouterr().err == data


FULL = """
import os, threading
from openllm.runner.last_words import LastWords

os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
words = LastWords()
os.write(words.writing, b"one" * 10_000)
os.write(words.writing, b" two\\nthree\\n")
os.close(words.writing)
words.drain()
print(words.line)
"""


@pytest.mark.reliability("F-07")
def test_what_cannot_be_written_is_dropped_and_the_child_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, check=True)
    assert done.stdout == "three\n"


CLOSED = """
import os, sys
from openllm.runner.last_words import LastWords

file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
words = LastWords()
os.write(words.writing, b"a secret\\n")
os.close(words.writing)
words.drain()
print(file, words.line)
"""


def test_without_a_standard_error_nothing_is_written_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    command = f'exec "{sys.executable}" -c "$0" "$1" 2>&-'
    done = subprocess.run(
        ["/bin/sh", "-c", command, CLOSED, path], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == "2 a secret\n"
    assert path.read_bytes() == b""


def test_nothing_is_held_when_the_child_has_ended() -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(50):
        written(b"x\n")
    assert len(os.listdir("/dev/fd")) <= before
