"""`openllm chat` in a real terminal, with `openllm start` behind it."""

from __future__ import annotations

import codecs
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import open_llm_client
from tests.e2e.server_process import serving

SCRIPT = {
    "tokens_per_second": 100,
    "rules": [
        {"match": "^long$", "reply": "word ", "repeat": 3000},
        {"match": "^rude$", "reply": "\x1b]0;owned\x07text"},
        {"match": "^turns$", "reply": "turn {turns}"},
    ],
    "default": {"reply": "You said: {user}"},
}
# Give the child a terminal of its own, so that Ctrl-C typed there becomes a signal.
IN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.executable, [sys.executable, '-c', *sys.argv[1:]])"
)
OPENLLM = "import sys; from openllm.cli import main; main(prog_name='openllm')"
CTRL_C, CTRL_D, UP, LEFT = "\x03", "\x04", "\x1b[A", "\x1b[D"


class Terminal:
    """A program in a pseudo-terminal; `screen` is all it has written, without escape sequences."""

    def __init__(self, *arguments: str, environment: dict[str, str]) -> None:
        self.screen = ""
        self.raw = ""
        self._seen = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, OPENLLM, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", **environment},
        )
        os.close(slave)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, pattern: str) -> str:
        """Wait until `pattern` appears after what was expected before; return the text up to it."""
        assert self.shows(pattern, 30), f"no {pattern!r} in:\n{self.screen}"
        found = re.search(pattern, self.screen[self._seen :])
        assert found is not None
        start, self._seen = self._seen, self._seen + found.end()
        return self.screen[start : self._seen]

    def shows(self, pattern: str, within: float) -> bool:
        """Whether `pattern` appears in time after what was expected before."""
        deadline = time.monotonic() + within
        while re.search(pattern, self.screen[self._seen :]) is None:
            if time.monotonic() > deadline:
                return False
            self._read()
        return True

    def wait(self, within: float = 30.0) -> int:
        """Read to the end and return the exit status."""
        deadline = time.monotonic() + within
        while self._read():
            assert time.monotonic() < deadline, f"still running:\n{self.screen}"
        return self.process.wait(within)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], 0.2)
        if not ready:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux: the other side is closed
            return False
        self.raw += self._decoder.decode(data)
        self.screen = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]|\r", "", self.raw)
        return bool(data)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    script = tmp_path_factory.mktemp("model") / "talk.script.json"
    script.write_text(json.dumps(SCRIPT))
    with serving(str(script)) as server:
        yield server.url


@pytest.fixture
def chat(server: str, tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_chat(*arguments: str) -> Terminal:
        environment = {"XDG_STATE_HOME": str(tmp_path / "state"), "OPEN_LLM_URL": server}
        opened.append(Terminal("chat", *arguments, environment=environment))
        opened[-1].expect(r"/help lists commands")
        opened[-1].expect("> ")
        return opened[-1]

    yield open_chat
    for terminal in opened:
        terminal.close()


def say(terminal: Terminal, text: str) -> str:
    """Type a message and return what the screen showed up to the next prompt."""
    terminal.type(f"{text}\r")
    return terminal.expect(r"(?m)^> ")


def test_a_conversation(chat: Callable[..., Terminal]) -> None:
    terminal = chat()
    assert "You said: hello" in say(terminal, "hello")
    assert "turn 2" in say(terminal, "turns")
    say(terminal, "/reset")
    assert "turn 1" in say(terminal, "turns")
    terminal.type("/exit\r")
    assert terminal.wait() == 0


def test_ctrl_d_leaves(chat: Callable[..., Terminal]) -> None:
    terminal = chat()
    terminal.type(CTRL_D)
    assert terminal.wait() == 0
    assert terminal.raw.endswith("\n")


def test_ctrl_c_stops_a_reply_and_keeps_the_session(
    chat: Callable[..., Terminal], server: str
) -> None:
    terminal = chat()
    terminal.type("long\r")
    terminal.expect("word word")
    terminal.type(CTRL_C)
    terminal.expect(r"\[stopped\]")
    terminal.expect(r"(?m)^> ")
    assert "turn 2" in say(terminal, "turns")
    with open_llm_client.create(server) as client:
        assert client.is_ready()


def test_ctrl_c_at_the_prompt_gives_the_line_up(chat: Callable[..., Terminal]) -> None:
    terminal = chat()
    terminal.type("half a mess")
    terminal.expect("half a mess")
    for _ in range(10):  # One that comes while readline reads a key waits for the next signal.
        terminal.type(CTRL_C)
        if terminal.shows("Ctrl-D or /exit leaves", 5):
            break
    terminal.expect("Ctrl-D or /exit leaves")
    terminal.expect(r"(?m)^> ")
    terminal.type("whole\r")
    terminal.expect("You said: whole")


def test_lines_are_edited_and_remembered(chat: Callable[..., Terminal], tmp_path: Path) -> None:
    terminal = chat()
    assert "You said: hello" in say(terminal, f"hllo{LEFT * 3}e")
    terminal.type(CTRL_D)
    assert terminal.wait() == 0
    history = tmp_path / "state" / "openllm" / "chat_history"
    assert history.read_text() == "hello\n"
    assert history.stat().st_mode & 0o777 == 0o600
    assert "You said: hello!" in say(chat(), f"{UP}!")


def test_a_message_of_several_lines(chat: Callable[..., Terminal]) -> None:
    terminal = chat()
    terminal.type("one\\\r")
    terminal.expect(r"(?m)^\. ")
    assert re.search(r"You said: one\s+two", say(terminal, "two"))
    terminal.type('"""\r')
    terminal.expect(r"(?m)^\. ")
    terminal.type("three\r")
    terminal.expect(r"(?m)^\. ")
    assert "You said: three" in say(terminal, '"""')


def test_the_text_of_a_model_cannot_command_the_terminal(chat: Callable[..., Terminal]) -> None:
    terminal = chat()
    assert "]0;ownedtext" in say(terminal, "rude")
    assert "\x1b]0;" not in terminal.raw
    assert "\x07" not in terminal.raw


def test_an_error_leaves_the_session_open(chat: Callable[..., Terminal]) -> None:
    terminal = chat("--top-k", "9" * 20)  # The server alone knows what is too much.
    assert "top_k" in say(terminal, "hello")
    assert "no command /quit" in say(terminal, "/quit")
    terminal.type("/exit\r")
    assert terminal.wait() == 0


def test_save(chat: Callable[..., Terminal], tmp_path: Path) -> None:
    terminal = chat("--system", "Be brief.")
    say(terminal, "hello")
    say(terminal, f"/save {tmp_path}/talk.json")
    saved: dict[str, Any] = json.loads((tmp_path / "talk.json").read_text())
    assert [(each["role"], each["content"]) for each in saved["messages"]] == [
        ("system", "Be brief."),
        ("user", "hello"),
        ("assistant", "You said: hello"),
    ]
    assert "/save --force" in say(terminal, f"/save {tmp_path}/talk.json")


def test_query_streams_into_a_terminal(server: str) -> None:
    with closing(Terminal("query", "long", environment={"OPEN_LLM_URL": server})) as terminal:
        terminal.expect("word word")
        terminal.type(CTRL_C)
        assert terminal.wait() == 130
