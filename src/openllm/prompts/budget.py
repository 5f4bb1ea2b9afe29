"""What one rendering of a template may still do: steps against a clock, characters made.

Text and lists are made only by the operations here that a template could make them grow with.
Each pays before it makes anything, so a template runs out of budget, never out of memory. Long
messages raise both limits: a template may look at each character, and add turn by turn to a text.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from jinja2 import Undefined, pass_context
from jinja2.filters import FILTERS
from jinja2.runtime import Context

MAX_SECONDS = 1.0
"""Processor time of the thread, so that a busy machine refuses nothing."""
MAX_WORK = 64 * 1024 * 1024
"""Characters that one rendering may make on the way; an element of a list counts as four."""

_SECONDS_A_CHARACTER = 2e-6
_WORK_A_CHARACTER = 256
_MOST_WORK = 4 * MAX_WORK
_ELEMENT = 4
_STEPS_PER_CLOCK = 16
_MAX_INDENT = 16

_BOUNDED_FILTERS = (
    "abs attr count d default dictsort first float groupby int items last length list map max"
    " min reject rejectattr reverse safe select selectattr sort unique"
)
_TEXT_FILTERS = "capitalize e escape lower string title trim upper"


class LimitError(Exception):
    """The template went beyond a limit; the message is a sentence about "it", the template."""


class Budget:
    """Time and characters left to the rendering of messages of so many characters."""

    __slots__ = ("_end", "_left", "_seconds", "_steps", "_work")

    def __init__(self, characters: int) -> None:
        self._seconds = MAX_SECONDS + characters * _SECONDS_A_CHARACTER
        self._end = time.thread_time() + self._seconds
        self._work = min(MAX_WORK + characters * _WORK_A_CHARACTER, _MOST_WORK)
        self._left = self._work
        self._steps = 0

    def step(self) -> None:
        self._steps += 1
        if self._steps % _STEPS_PER_CLOCK == 0 and time.thread_time() > self._end:
            raise LimitError(f"it runs for more than {self._seconds:.2g} s")

    def pay(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise LimitError(f"it makes more than {self._work} characters")


BUDGET: ContextVar[Budget] = ContextVar("template_budget")


def pay(amount: int) -> None:
    BUDGET.get().pay(amount)


def made(value: Any) -> Any:
    """Pay for a new text, or for the slots of a new list, and return it."""
    if isinstance(value, str):
        pay(len(value))
    elif isinstance(value, (list, tuple, dict)):
        pay(_ELEMENT * len(value))
    return value


def display(value: Any) -> Any:
    """Pay for all that a new list, tuple or dict holds at any depth, and return it.

    A value may hold another many times over and so be far larger than its parts. Paid like
    this, no value is larger than what was paid: comparing or hashing it is bounded as well.
    """
    written_size(value)
    return value


def written_size(value: Any) -> int:
    """Pay for the elements of `value` at every depth; return its characters when written out."""
    budget, size, waiting = BUDGET.get(), 0, [value]
    while waiting:
        item = waiting.pop()
        budget.step()
        budget.pay(_ELEMENT)
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple)):
            waiting += item
        size += _ELEMENT
    return size


def text(value: Any) -> str:
    """Return `value` as text, having paid for it where it had to be made."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple, dict)):
        pay(written_size(value))
    elif value is not None and not isinstance(value, (int, float, range, Undefined)):
        raise LimitError(f"it prints an object of the type {type(value).__name__}")
    return str(value)


def join(separator: str, values: Iterable[Any]) -> str:
    texts = [text(value) for value in each(values)]
    pay(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


def replace(value: str, old: str, new: str, count: int = -1) -> str:
    found = value.count(old) if count < 0 else min(count, value.count(old))
    pay(len(value) + found * len(new))
    return value.replace(old, new, count)


def each(values: Iterable[Any]) -> Iterator[Any]:
    """Iterate, a step each."""
    budget = BUDGET.get()
    for value in values:
        budget.step()
        yield value


@pass_context
def _filter_join(
    context: Context, value: Iterable[Any], d: str = "", attribute: str | None = None
) -> str:
    if attribute is not None:
        value = FILTERS["map"](context, value, attribute=attribute)
    return join(str(d), value)


def _filter_replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    return replace(str(text(value)), str(old), str(new), -1 if count is None else count)


def _filter_indent(
    value: Any, width: int | str = 4, first: bool = False, blank: bool = False
) -> str:
    written = text(value)
    pay(len(written) + _margin(width) * (1 + len(written.splitlines())))
    indented: str = FILTERS["indent"](written, width, first, blank)
    return indented


def _filter_tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As Hugging Face has it: nothing is escaped for HTML, other alphabets stay as they are."""
    widest = max(_margin(indent or 0), *map(_margin, separators or ("",)))
    pay(written_size(value) * (1 + widest))
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _margin(width: int | str) -> int:
    """Return the characters of an indent or a separator, which must be few."""
    size = len(width) if isinstance(width, str) else width
    if size > _MAX_INDENT:
        raise LimitError(f"it asks for an indent or a separator of {size} characters")
    return max(0, size)


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        BUDGET.get().step()
        return made(function(*args, **kwargs))

    return counted


def _on_text(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value, *args, **kwargs: made(function(text(value), *args, **kwargs))


def _filters() -> dict[str, Callable[..., Any]]:
    own = {
        "indent": _filter_indent,
        "join": _filter_join,
        "replace": _filter_replace,
        "tojson": _filter_tojson,
    }
    textual = {name: _on_text(FILTERS[name]) for name in _TEXT_FILTERS.split()}
    others = {name: FILTERS[name] for name in _BOUNDED_FILTERS.split()}
    return {name: _counted(function) for name, function in {**own, **textual, **others}.items()}


SAFE_FILTERS = _filters()
"""The filters of chat templates, each a step; those that could grow text by a number are absent."""
