"""Standard input, output and error, whatever the process was started with."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO

from openllm.errors import InvalidRequestError

_NO_CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def open_streams() -> None:
    """Let those that are closed lead nowhere, and take any text.

    Else another file would get the number of a closed stream, and what is meant for a person would
    be written into it. ASCII, which nobody chose, is UTF-8, as click has it. What another encoding
    lacks is written as "?", and read as `as_text` can make it out.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdin = sys.stdin or _nowhere(0)
    sys.stdout = sys.stdout or _nowhere(1)
    sys.stderr = sys.stderr or _nowhere(2)
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace")):
        if isinstance(stream, io.TextIOWrapper):
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if ascii_only else None, errors=errors)


def as_text(text: str, what: str) -> str:
    """Return an argument or a line of input, where bytes that the locale lacks are UTF-8.

    Raises:
        InvalidRequestError: They are not; says so of `what`.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode()
        except UnicodeError:
            raise InvalidRequestError(f"{what} is not UTF-8; write it as UTF-8") from None
    return text


def harmless(text: str) -> str:
    """Return text of somebody else without what moves a terminal's cursor or answers for the user.

    Blanks, tabs and ends of lines stay.
    """
    return text.translate(_NO_CONTROL)


def _nowhere(number: int) -> TextIO:
    """Return a stream for /dev/null, which was opened with this number."""
    return open(number, "w" if number else "r", encoding="utf-8", closefd=False)
