"""Values that say which model they are for: `cpu` for all, `llama:gpu:0` for one, or several.

Flags, variables and the top of the file write them alike: as a text with commas, or as a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from openllm.config.fields import closest, written
from openllm.config.sources import Given, Layer, model_key, put


class Owners(NamedTuple):
    """The models that one source of settings may name.

    Attributes:
        started: Names of the models that will be served.
        known: Further names, of which values are no mistakes: families, models not started here.
        strangers: Whether there may be models that nobody has named yet, whose values are passed
            over.
    """

    started: Sequence[str]
    known: Sequence[str] = ()
    strangers: bool = False

    def has(self, name: str) -> bool:
        """Whether a value may be for the model of this name."""
        return model_key(name) in map(model_key, (*self.started, *self.known))

    def refusal(self, name: str, given: str) -> str:
        """Say of what was `given` for a model that there is none of this name."""
        close = closest(name, self.started)
        return (
            f"{given}: no model {name!r} is started here, only"
            f" {', '.join(self.started) or 'none'}{close and f'; did you mean {close!r}?'}"
        )


def put_apart(layer: Layer, name: str, given: Given, owners: Owners, mistakes: list[str]) -> None:
    """Add each of the values of a field that names models to those of the model it is for."""
    seen: dict[str, object] = {}
    for owner, value in _apart(given.value, owners.started):
        if seen.setdefault(owner, value) != value:
            mistakes.append(_twice(given.origin, owner, seen[owner], value))
        elif not owner:
            put(layer.general, name, given._replace(value=value), mistakes)
        elif owners.has(owner):
            put(layer.of(model_key(owner)), name, given._replace(value=value), mistakes)
        elif not owners.strangers:
            mistakes.append(owners.refusal(owner, f"{given.origin} {owner}:{value}"))


def _twice(origin: str, owner: str, first: object, second: object) -> str:
    both = f"{origin}: {written(first)} and {written(second)} are both for"
    if owner:
        return f"{both} model {owner!r}; leave one out"
    return f"{both} all models; leave one out, or say for which model each is: MODEL:{second}"


def _apart(value: object, started: Sequence[str]) -> Iterator[tuple[str, object]]:
    """Yield each value and the name of the model it is for, "" for all."""
    for each in _items(value):
        for part in each.split(",") if isinstance(each, str) else (each,):
            yield _owner(part.strip(), started) if isinstance(part, str) else ("", part)


def _items(value: object) -> Iterable[object]:
    return value if isinstance(value, (tuple, list)) else (value,)


def _owner(part: str, started: Sequence[str]) -> tuple[str, str]:
    """Split MODEL:DEVICE; a model's name may have colons of its own, and so may a device."""
    for name in sorted(started, key=len, reverse=True):
        beginning, value = part[: len(name) + 1], part[len(name) + 1 :]
        if beginning.endswith(":") and model_key(beginning[:-1]) == model_key(name):
            return name, value
    kind, colon, number = part.partition(":")
    if not colon or (number.isdigit() and kind in ("cuda", "gpu")):
        return "", part
    for device in ("cuda", "gpu"):
        model, found, card = part.rpartition(f":{device}:")
        if found:
            return model, f"{device}:{card}"
    model, _, device = part.rpartition(":")
    return model, device
