"""Options by name, of the command line or keyword arguments, sorted by the models they are for.

The command line's are "field" for a flag, ".field" for `--opt` and "model.field" for `--opt` of one
model; keyword arguments are "field" and "model.field".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from openllm.config.fields import (
    ALIASES,
    FIELDS,
    MODEL_FIELDS,
    closest,
    field_name,
    flag,
    names_models,
    suggestion,
)
from openllm.config.sources import Given, Layer, empty, model_key, put


def as_flag(name: str) -> str:
    """Return how the command line writes the option that `read_flags` knows by this name."""
    return f"--opt {name.removeprefix('.')}" if "." in name else flag(name)


def as_argument(name: str) -> str:
    """Return how Python writes it."""
    return name


def read_flags(
    options: Mapping[str, object],
    started: Sequence[str],
    mistakes: list[str],
    *,
    families: Iterable[str] = (),
    origin: Callable[[str], str] = as_flag,
) -> Layer:
    """Sort options: "field" and ".field" hold for all models, "model.field" for one.

    The flags of fields that name models (`--device llama:gpu:0,demo:cpu`) are taken apart.

    Args:
        options: Values by name, in any spelling.
        started: Names of the models that will be served; an option for another is a mistake.
        mistakes: Gets what is wrong with names.
        families: Names that stand for several of those models.
        origin: Says of a name how the user wrote it.
    """
    return _Reader(started, tuple(families), origin, mistakes).layer(options)


class _Reader:
    def __init__(
        self,
        started: Sequence[str],
        families: Sequence[str],
        origin: Callable[[str], str],
        mistakes: list[str],
    ) -> None:
        self._started = started
        self._owners = (*started, *families)
        self._origin = origin
        self._mistakes = mistakes
        self._layer = empty()

    def layer(self, options: Mapping[str, object]) -> Layer:
        for spelled, value in options.items():
            model, _, last = spelled.rpartition(".")
            name = field_name(last)
            if name not in (MODEL_FIELDS if model else FIELDS):
                self._mistakes.append(self._unknown(spelled, model, last))
            elif names_models(FIELDS[name]) and not model:
                for owner, each in _apart(value, self._owners):
                    self._put(owner, name, Given(each, self._origin(spelled)), f"{owner}:{each}")
            else:
                self._put(model, name, Given(value, self._origin(spelled)))
        return self._layer

    def _put(self, model: str, name: str, given: Given, whole: str = "") -> None:
        key = model_key(model)
        if not model:
            put(self._layer.general, name, given, self._mistakes)
        elif key in map(model_key, self._owners):
            put(self._layer.of(key), name, given, self._mistakes)
        else:
            close = closest(model, self._started)
            self._mistakes.append(
                f"{given.origin}{whole and f' {whole}'}: no model {model!r} is started here, only"
                f" {', '.join(self._started) or 'none'}{close and f'; did you mean {close!r}?'}"
            )

    def _unknown(self, spelled: str, model: str, last: str) -> str:
        name = field_name(last)
        where = self._origin(spelled)
        if name in FIELDS:
            return f"{where}: this is an option of the whole server; write {self._origin(name)}"
        if name in ("model", "models") and not model:
            return f"{where}: models are no option; name them as the argument"
        known = (*(MODEL_FIELDS if model else FIELDS), *ALIASES)
        hint = suggestion(last.replace("-", "_"), known)
        more = f"{hint}?" if hint else "; `openllm config docs` lists all"
        return f"{f'{where}: ' if '.' in spelled else ''}unknown option {last!r}{more}"


def _apart(value: object, started: Sequence[str]) -> Iterator[tuple[str, object]]:
    """Yield each value of a flag and the name of the model it is for, "" for all."""
    for each in (value,) if value is None or isinstance(value, str) else _items(value):
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
