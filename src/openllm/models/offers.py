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

import msgspec

from openllm.config.download import DownloadOptions
from openllm.models.hub import RemoteFile, RemoteModel, inspect, wanted
from openllm.models.ref import ModelRef
from openllm.models.transfer_http import Session, measure
from openllm.models.transfer_stop import stoppable

PARALLEL = 8
"""Requests at once for what a listing does not say."""

Offer = tuple[RemoteModel, tuple[RemoteFile, ...]]
_Question = tuple[str, str, str, DownloadOptions]

_answers: ContextVar[dict[_Question, Offer] | None] = ContextVar("_answers", default=None)


@contextmanager
def asked_once() -> Iterator[None]:
    """Within the block, have `offered` give its first answer again, in this thread alone."""
    before = _answers.set({})
    try:
        yield
    finally:
        _answers.reset(before)


def offered(
    ref: ModelRef, options: DownloadOptions, cancelled: threading.Event | None = None
) -> Offer:
    """Ask the hub, or the URL's server, what `ref` is, and which of its files to download.

    A length that a listing leaves out is asked for; it may remain -1.

    Raises:
        OpenLLMError: As `inspect` and `wanted` say.
    """
    answers = _answers.get()
    if answers is None:
        return _asked(ref, options, cancelled)
    question = (ref.origin, ref.revision, ref.file, options)
    if question not in answers:
        answers[question] = _asked(ref, options, cancelled)
    return answers[question]


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
