"""Options by name, of the command line or keyword arguments, sorted by the models they are for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from openllm.config.fields import (
    FIELDS,
    MODEL_FIELDS,
    field_name,
    flag,
    names_models,
    suggestion,
)
from openllm.config.sources import Given, Layer, empty, model_key, put


def read_flags(options: Mapping[str, object], started: Sequence[str], mistakes: list[str]) -> Layer:
    """Sort options: "field" holds for all models, "model.field" for one.

    The flags of fields that name models (`--device llama:gpu:0,demo:cpu`) are taken apart.

    Args:
        options: Values by name, in any spelling.
        started: Names of the models that will be served; an option for another is a mistake.
        mistakes: Gets what is wrong with names.
    """
    layer = empty()
    for spelled, value in options.items():
        model, dot, last = spelled.rpartition(".")
        name = field_name(last)
        if name not in (MODEL_FIELDS if dot else FIELDS):
            mistakes.append(_unknown(last, model))
        elif dot:
            _put_for(layer, model, name, Given(value, f"--opt {model}.{name}"), started, mistakes)
        elif names_models(FIELDS[name]):
            for owner, each in _apart(value, started):
                given = Given(each, flag(name))
                if owner:
                    _put_for(layer, owner, name, given, started, mistakes)
                else:
                    put(layer.general, name, given, mistakes)
        else:
            put(layer.general, name, Given(value, flag(spelled)), mistakes)
    return layer


def _put_for(
    layer: Layer, model: str, name: str, given: Given, started: Sequence[str], mistakes: list[str]
) -> None:
    key = model_key(model)
    if key in map(model_key, started):
        put(layer.of(key), name, given, mistakes)
    else:
        whole = f"{given.origin} {model}:{given.value}" if given.origin == flag(name) else None
        mistakes.append(
            f"{whole or given.origin}: no model {model!r} is started here"
            f"{suggestion(model, started)}; started are {', '.join(started) or 'none'}"
        )


def _unknown(name: str, model: str) -> str:
    if model and name in FIELDS:
        return f"--opt {model}.{name}: this is an option of the whole server; write {flag(name)}"
    where = f"--opt {model}.{name}: " if model else ""
    return f"{where}unknown option {name!r}{suggestion(name, MODEL_FIELDS if model else FIELDS)}"


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
