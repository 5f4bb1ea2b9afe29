"""The settings in the environment: OPEN_LLM_<FIELD>, and OPEN_LLM_<MODEL>_<FIELD> for one model.

Every variable of that prefix is read, so that a mistyped one is found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from openllm.config.by_model import Owners, put_apart
from openllm.config.fields import (
    FIELDS,
    MODEL_FIELDS,
    all_names,
    blanks_separate,
    closest,
    field_name,
    is_list,
    is_secret,
    names_models,
)
from openllm.config.names import PREFIX, RESERVED, variable
from openllm.config.sources import Given, Layer, empty, model_key, put

_QUOTED = re.compile(r"\[\s*\"")
"""How a list of texts begins; what begins otherwise, as [INST] does, is one text."""


class _Meaning(NamedTuple):
    """What a variable can be: a field, of the model with this key or, if that is "", of all."""

    key: str
    field: str


def read_environment(
    environ: Mapping[str, str],
    started: Sequence[str],
    known: Iterable[str],
    mistakes: list[str],
    *,
    others: bool = False,
) -> Layer:
    """Sort the variables; what they say is not checked yet.

    A variable belongs to the longest model name that leaves the name of a field.

    Args:
        started: Names of the models that will be served.
        known: Names of further models, whose variables are no mistakes.
        mistakes: Gets what is wrong with names of variables.
        others: Whether there may be models that nobody has named yet, as in a program that builds
            several; a variable that could be of one is passed over.
    """
    layer = empty()
    owners = Owners(started, tuple(known), others)
    keys = {model_key(name) for name in (*started, *owners.known)}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in RESERVED:
            continue
        meanings = _meanings(name.removeprefix(PREFIX), keys)
        if not meanings and others and _could_be_of_a_model(name):
            continue
        if not meanings:
            mistakes.append(_unknown(name, started, keys))
        elif len(meanings) > 1 and not meanings[-1].key:
            mistakes.append(_ambiguous(name, meanings))
        else:
            key, field = meanings[0]
            given = Given(_value(meanings[0], environ[name], name, mistakes), name)
            if names_models(FIELDS[field]) and not key:
                put_apart(layer, field, given, owners, mistakes)
            else:
                put(layer.of(key) if key else layer.general, field, given, mistakes)
    return layer


def _meanings(rest: str, keys: Iterable[str]) -> list[_Meaning]:
    """Return what the variable can be, the longest model first and a field of all last."""
    found = [
        _Meaning(key, field)
        for key in sorted(keys, key=len, reverse=True)
        if rest.startswith(f"{key}_")
        and (field := _field(rest.removeprefix(f"{key}_"))) in MODEL_FIELDS
    ]
    field = _field(rest)
    return [*found, _Meaning("", field)] if field in FIELDS else found


def _could_be_of_a_model(name: str) -> bool:
    return name.endswith(tuple(f"_{field.upper()}" for field in MODEL_FIELDS))


def _field(text: str) -> str:
    return field_name(text.lower()) if text.isupper() else ""


def _value(meaning: _Meaning, text: str, origin: str, mistakes: list[str]) -> Any:
    """Return the value of a variable; a list is JSON, or its items stand between blanks."""
    field = FIELDS[meaning.field]
    if not is_list(field) and (meaning.key or not names_models(field)):
        return text
    if blanks_separate(field):
        return tuple(text.split()) or (text,)
    if text.startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            if _QUOTED.match(text):
                shown = "" if is_secret(field) else f" {text[:200]!r}"
                mistakes.append(f"{origin}{shown}: this is no list of JSON: {error}; correct it")
                return ()
    return (text,)


def _unknown(name: str, started: Sequence[str], keys: Iterable[str]) -> str:
    rest = name.removeprefix(PREFIX)
    if owners := [key for key in keys if rest.startswith(f"{key}_")]:
        owner = max(owners, key=len)
        field = _field(rest.removeprefix(f"{owner}_"))
        if field in FIELDS:
            return f"{name}: this is an option of the whole server; write {variable(field)}"
        names = [owner]
    else:
        names = list(started)
    candidates = [variable(field) for field in all_names(FIELDS)]
    candidates += [variable(field, model) for model in names for field in all_names(MODEL_FIELDS)]
    close = closest(name.upper(), [*candidates, *RESERVED], cutoff=0.7)
    hint = f"did you mean {close}?" if close else "remove it; `openllm config docs` lists all"
    return f"{name}: there is no such option; {hint}"


def _ambiguous(name: str, meanings: Sequence[_Meaning]) -> str:
    model, general = meanings[0], meanings[-1]
    return (
        f"{name} can be {general.field} of all models and {model.field} of model"
        f" {model.key.lower()!r}; give that model another name with NAME=MODEL"
    )
