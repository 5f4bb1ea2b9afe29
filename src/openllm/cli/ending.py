"""How every command ends: its exit status, and the one line that is said of what went wrong.

0    it is done
1    it could not be done, or what was asked about is not as it should be
2    what the user gave is wrong: an option, a value, a name, a setting, a file
130  Ctrl-C ended it
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO

import click

from openllm.cli.streams import harmless
from openllm.errors import (
    ConfigurationError,
    InvalidRequestError,
    ModelNotFoundError,
    OpenLLMError,
)

FAILED = 1
MISTAKEN = 2
INTERRUPTED = 130

_MISTAKES = (ConfigurationError, InvalidRequestError, ModelNotFoundError)
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def status_of(error: OpenLLMError) -> int:
    """Return the exit status of a command that `error` ends."""
    return MISTAKEN if isinstance(error, _MISTAKES) else FAILED


@contextmanager
def told() -> Iterator[None]:
    """End the process with a line on standard error and a status when the block fails."""
    try:
        yield
    except OpenLLMError as error:
        _end(error.message, status_of(error))
    except OSError as error:
        _end(_in_words(error), FAILED)


def _in_words(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.filename is not None:
        return f"{error.filename}: {reason}"
    return f"the output cannot be written: {reason}" if error.errno in _OF_WRITING else reason


def _end(message: str, status: int) -> NoReturn:
    with suppress(OSError):  # Nobody can be told.
        click.echo(f"Error: {harmless(message)}", err=True)
    for stream in (sys.stdout, sys.stderr):
        _let_go(stream)
    sys.exit(status)


def _let_go(stream: TextIO) -> None:
    """Forget the text that cannot be written; Python would try at its end, and complain."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
