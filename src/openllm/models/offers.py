"""What a hub, or a URL's server, offers of one model; a command asks for it once.

A command looks at a model before it downloads it: which engine runs it, what memory it needs. All
of that goes by one answer, so that what was looked at is what comes, though a branch moves on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

import msgspec

from openllm.config.download import DownloadOptions
from openllm.errors import ModelFetchError, OpenLLMError
from openllm.models.hub import RemoteFile, RemoteModel, inspect
from openllm.models.hub_files import wanted
from openllm.models.ref import ModelRef
from openllm.models.store import forget_look
from openllm.models.transfer_http import Session, measure
from openllm.models.transfer_stop import stoppable

PARALLEL = 8
"""Requests at once for what a listing does not say."""

Offer = tuple[RemoteModel, tuple[RemoteFile, ...]]
_Question = tuple[str, str, str, DownloadOptions]


class _Command(NamedTuple):
    """What one command was answered, and the folders of the models that it has looked at."""

    answers: dict[_Question, Offer]
    looked_at: set[Path]


_command: ContextVar[_Command | None] = ContextVar("_command", default=None)


@contextmanager
def asked_once() -> Iterator[None]:
    """Within the block, have `offered` give its first answer again, in this thread alone.

    If it ends with a refusal, nothing is left of what was read to look at models.
    """
    command = _Command({}, set())
    before = _command.set(command)
    try:
        yield
    except ModelFetchError:  # Which may end well the next time.
        raise
    except OpenLLMError:
        for folder in command.looked_at:
            forget_look(folder)
        raise
    finally:
        _command.reset(before)


def look_at(folder: Path) -> None:
    """Have what is read into the folder of a download forgotten if this command refuses it."""
    if (command := _command.get()) is not None:
        command.looked_at.add(folder)


def offered(
    ref: ModelRef, options: DownloadOptions, cancelled: threading.Event | None = None
) -> Offer:
    """Ask the hub, or the URL's server, what `ref` is, and which of its files to download.

    A length that a listing leaves out is asked for; it may remain -1.

    Raises:
        OpenLLMError: As `inspect` and `wanted` say.
    """
    if (command := _command.get()) is None:
        return _asked(ref, options, cancelled)
    question = (ref.origin, ref.revision, ref.file, options)
    if question not in command.answers:
        command.answers[question] = _asked(ref, options, cancelled)
    return command.answers[question]


def _asked(ref: ModelRef, options: DownloadOptions, cancelled: threading.Event | None) -> Offer:
    remote = inspect(ref, options, cancelled)
    files = wanted(remote, ref.file if ref.kind == "hub" else "")
    if not remote.commit or all(one.size >= 0 for one in files):
        return remote, files
    with Session(options, remote.home(options)) as session:
        return remote, stoppable(lambda: _measured(files, session), session.halt, cancelled)


def _measured(files: Sequence[RemoteFile], session: Session) -> tuple[RemoteFile, ...]:
    def measured(one: RemoteFile) -> RemoteFile:
        if one.size >= 0:
            return one
        return msgspec.structs.replace(one, size=measure(session, one.url)[0])

    with ThreadPoolExecutor(PARALLEL, "openllm-lengths") as pool:
        return tuple(pool.map(measured, files))
