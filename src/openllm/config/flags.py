"""Options by name, of the command line or keyword arguments, sorted by the models they are for.

The command line's are "field" for a flag, ".field" for `--opt` and "model.field" for `--opt` of one
model; keyword arguments are "field" and "model.field".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from openllm.config.by_model import Owners, put_apart
from openllm.config.fields import (
    FIELDS,
    MODEL_FIELDS,
    all_names,
    field_name,
    names_models,
    suggestion,
)
from openllm.config.names import flag
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
    return _Reader(Owners(started, tuple(families)), origin, mistakes).layer(options)


class _Reader:
    def __init__(self, owners: Owners, origin: Callable[[str], str], mistakes: list[str]) -> None:
        self._owners = owners
        self._origin = origin
        self._mistakes = mistakes
        self._layer = empty()

    def layer(self, options: Mapping[str, object]) -> Layer:
        for spelled, value in options.items():
            model, _, last = spelled.rpartition(".")
            name = field_name(last)
            given = Given(value, self._origin(spelled))
            if name not in (MODEL_FIELDS if model else FIELDS):
                self._mistakes.append(self._unknown(spelled, model, last))
            elif model:
                self._put_own(model, name, given)
            elif names_models(FIELDS[name]):
                put_apart(self._layer, name, given, self._owners, self._mistakes)
            else:
                put(self._layer.general, name, given, self._mistakes)
        return self._layer

    def _put_own(self, model: str, name: str, given: Given) -> None:
        if self._owners.has(model):
            put(self._layer.of(model_key(model)), name, given, self._mistakes)
        else:
            self._mistakes.append(self._owners.refusal(model, given.origin))

    def _unknown(self, spelled: str, model: str, last: str) -> str:
        name = field_name(last)
        where = self._origin(spelled)
        if name in FIELDS:
            return f"{where}: this is an option of the whole server; write {self._origin(name)}"
        if name in ("model", "models") and not model:
            return f"{where}: models are no option; name them as the argument"
        known = all_names(MODEL_FIELDS if model else FIELDS)
        hint = suggestion(last.replace("-", "_"), known)
        more = f"{hint}?" if hint else "; `openllm config docs` lists all"
        return f"{f'{where}: ' if '.' in spelled else ''}unknown option {last!r}{more}"
