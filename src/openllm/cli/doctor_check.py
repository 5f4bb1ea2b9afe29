"""What `openllm doctor` finds: one line for each thing looked at, gathered within a time limit."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Literal, NamedTuple

Status = Literal["ok", "off", "warn", "fail"]
"""`off`: not here, and nothing is wrong with that."""

_MAX_TEXT = 600
_LEAST_SECRET = 6
_SECRET_NAME = re.compile(
    r"(^|_)(API)?(KEYS?|TOKENS?|SECRETS?|PASS|PASSW(OR)?D|CREDENTIALS?|AUTH|HEADERS?)(_|$)"
)
_SECRET_SHAPES = (
    (re.compile(r"(?<=//)[^/\s@]+@"), "***@"),
    (re.compile(r"\bhf_[A-Za-z0-9]{6,}"), "hf_***"),
)


class Check(NamedTuple):
    """One thing looked at.

    Attributes:
        name: What it is, in a word or two.
        status: Whether it is as it should be.
        text: What was found.
        fix: What to do about it; "" if nothing is to be done.
    """

    name: str
    status: Status
    text: str
    fix: str = ""


class Topic(NamedTuple):
    """A heading and what looks at the things below it."""

    title: str
    look: Callable[[], Sequence[Check]]


class Finding(NamedTuple):
    """A check with the heading it stands under."""

    topic: str
    check: Check


def examine(topics: Sequence[Topic], limit: float) -> list[Finding]:
    """Look at all topics at once; those that take longer than `limit` seconds are left alone.

    A topic that fails is a warning that says so. The findings come in the order of the topics and
    hold no secret of the environment.
    """
    found: dict[int, Sequence[Check]] = {}

    def look(index: int) -> None:
        found[index] = _safely(topics[index])

    deadline = monotonic() + limit
    # A call that hangs in the system cannot be stopped, so nothing must wait for its thread.
    threads = [
        threading.Thread(target=look, args=(index,), daemon=True) for index in range(len(topics))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - monotonic()))
    secrets = secrets_of(os.environ)
    return [
        Finding(topic.title, _hidden(check, secrets))
        for index, topic in enumerate(topics)
        for check in found.get(index, (_late(topic, limit),))
    ]


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values that no output may show, the longest first."""
    values = {
        part
        for name, value in environ.items()
        if _SECRET_NAME.search(name.upper())
        for part in (value, *value.split())
        if len(part) >= _LEAST_SECRET and not os.path.exists(part)
    }
    return tuple(sorted(values, key=len, reverse=True))


def hide(text: str, secrets: Sequence[str]) -> str:
    """Return `text` on one line and without secrets; of a URL the user and password go."""
    for secret in secrets:
        text = text.replace(secret, "***")
    for shape, shown in _SECRET_SHAPES:
        text = shape.sub(shown, text)
    text = " ".join(text.split())
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."


def _safely(topic: Topic) -> Sequence[Check]:
    try:
        return topic.look()
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        return (Check(topic.title.lower(), "warn", f"this could not be looked at: {what}"),)


def _late(topic: Topic, limit: float) -> Check:
    return Check(topic.title.lower(), "warn", f"there was no answer within {limit:g} s")


def _hidden(check: Check, secrets: Sequence[str]) -> Check:
    return check._replace(text=hide(check.text, secrets), fix=hide(check.fix, secrets))
