"""Messages typed by a user: several lines if wanted, edited and remembered in a terminal.

Knows nothing of servers or of what the messages mean.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from openllm.cli.streams import as_text

if TYPE_CHECKING:
    from types import ModuleType, TracebackType

    from typing_extensions import Self

PROMPT = "> "
CONTINUATION = ". "
QUOTES = '"""'
HISTORY_LINES = 1000


class LineInput:
    """Reads messages from standard input; inside `with`, a terminal gets line editing and history.

    `interactive` is true when both standard input and output are a terminal; else no prompt is
    written.
    """

    def __init__(self) -> None:
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self._readline: ModuleType | None = None
        self._remembered = 0

    def read(self) -> str:
        """Return the next message.

        Raises:
            EOFError: There is none.
            InvalidRequestError: It is not UTF-8.
            KeyboardInterrupt: The user gave this line up.
        """
        text = read_message(lambda prompt: input(prompt if self.interactive else ""))
        return as_text(text, "the message")

    def __enter__(self) -> Self:
        if self.interactive:
            self._load_history()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._readline is not None:
            self._save_history(self._readline)

    def _load_history(self) -> None:
        try:
            import readline
        except ImportError:  # Python was built without it: lines are read, but not edited
            return
        self._readline = readline
        readline.set_history_length(HISTORY_LINES)
        try:
            readline.read_history_file(history_path())
        except (OSError, RuntimeError):  # There is none, or not even a home folder.
            return
        self._remembered = readline.get_current_history_length()

    def _save_history(self, readline: ModuleType) -> None:
        new = readline.get_current_history_length() - self._remembered
        try:
            path = history_path()
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            path.chmod(0o600)
            readline.append_history_file(new, path)
        except (OSError, RuntimeError) as error:
            print(f"the input history was not saved: {error}", file=sys.stderr)


def history_path() -> Path:
    """Return where typed lines are remembered, by the XDG base directory rules.

    Raises:
        RuntimeError: The user has no home folder.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "openllm" / "chat_history"


def read_message(read_line: Callable[[str], str]) -> str:
    """Read one message: a line, lines that end in a backslash, or lines inside triple quotes.

    A message cut short by the end of input is returned as far as it goes.

    Raises:
        EOFError: The input ended before its first line.
    """
    line = read_line(PROMPT)
    opened = line.lstrip()
    if opened.startswith(QUOTES):
        return _until_quotes(opened.removeprefix(QUOTES), read_line)
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1].removesuffix("\\")
        if not _append_line(lines, read_line):
            break
    return "\n".join(lines)


def _until_quotes(first: str, read_line: Callable[[str], str]) -> str:
    lines = [first]
    while not lines[-1].rstrip().endswith(QUOTES):
        if not _append_line(lines, read_line):
            break
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip("\n")


def _append_line(lines: list[str], read_line: Callable[[str], str]) -> bool:
    try:
        lines.append(read_line(CONTINUATION))
    except EOFError:
        return False
    return True
