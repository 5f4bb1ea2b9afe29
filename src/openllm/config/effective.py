"""What holds in the end, and where each value was given.

A request's own value comes first, which is `openllm.server`'s affair; then a flag,
OPEN_LLM_<MODEL>_<FIELD>, OPEN_LLM_<FIELD>, the configuration file, what the model's family brings,
and the field's default. In each of them a value for one model is before one for all sizes of its
family, and that before one for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from openllm.config.download import DownloadOptions
from openllm.config.explain import explain, refusal
from openllm.config.fields import as_items, is_number
from openllm.config.model import LoadOptions, ModelConfig, RequestDefaults
from openllm.config.server import ServerSettings
from openllm.config.sources import Given, Layer, Values, model_key

Settings = TypeVar("Settings", bound=BaseModel)
Scope = Literal["", "model", "family", "all"]


class Setting(NamedTuple):
    """A value in effect.

    Attributes:
        origin: Where it was given: a flag, a variable, a line of a file, "family x", or "default".
        scope: Whether that was for this model alone, for all sizes of its family or for all
            models; "" if the user said nothing.
    """

    value: object
    origin: str
    scope: Scope = ""


class Named(NamedTuple):
    """A model to be served, before its settings are known.

    Attributes:
        text: As it was typed.
        name: What requests call it.
        defaults: What its family or its registration sets.
        origin: What messages call those, such as "family llama".
        known: Whether there is such a model; of one that there is not, only values are checked.
        family: The name under which settings are for all sizes of its family; "" if it has none.
    """

    text: str
    name: str
    defaults: Mapping[str, object] = {}
    origin: str = ""
    known: bool = True
    family: str = ""


class Entry(NamedTuple):
    """A model to be served, with all its settings; `settings` are the same with their origins."""

    text: str
    name: str
    config: ModelConfig
    download: DownloadOptions
    settings: Mapping[str, Setting]


class Configuration(NamedTuple):
    """Everything that a server is started with.

    Attributes:
        download: What holds for downloads of no model in particular.
        settings: Those of the server, with their origins.
    """

    server: ServerSettings
    download: DownloadOptions
    entries: tuple[Entry, ...]
    settings: Mapping[str, Setting]


def configure(
    models: Sequence[Named], layers: Sequence[Layer], mistakes: list[str]
) -> Configuration:
    """Return what holds, and check every value that was given, also those that another replaces.

    Args:
        models: What will be served.
        layers: The sources, the one that wins first.
        mistakes: Gets what is wrong. A value that is wrong counts as not given in what is
            returned, which is then good for finding further mistakes only.
    """
    mistakes += _sharing(models)
    general = [layer.general for layer in layers]
    server = checked(ServerSettings, general, mistakes)
    _, _, download = _of_model(general, mistakes)
    keys = {key for model in models for key in _keys(model)}
    for key in sorted({key for layer in layers for key in layer.models} - keys):
        _of_model(_chain((key,), layers), mistakes)
    entries = tuple(_entry(model, layers, mistakes) for model in models)
    return Configuration(server, download, entries, _settings((server,), general, (), layers))


def _keys(model: Named) -> tuple[str, ...]:
    """Return the names, as variables have them, whose settings it gets; the first wins."""
    return tuple(model_key(name) for name in (model.name, model.family) if name)


def _entry(model: Named, layers: Sequence[Layer], mistakes: list[str]) -> Entry:
    keys = _keys(model)
    brought = {name: Given(value, model.origin) for name, value in model.defaults.items()}
    chain = [*_chain(keys, layers), brought]
    load, defaults, download = _of_model(chain, mistakes)
    return Entry(
        text=model.text,
        name=model.name,
        config=ModelConfig(load=load, defaults=defaults),
        download=download,
        settings=_settings((load, defaults, download), chain, keys, layers),
    )


def _chain(keys: Sequence[str], layers: Sequence[Layer]) -> list[Values]:
    return [
        values
        for each in layers
        for values in (*(each.models.get(key, {}) for key in keys), each.general)
    ]


def _of_model(
    chain: Sequence[Values], mistakes: list[str]
) -> tuple[LoadOptions, RequestDefaults, DownloadOptions]:
    return (
        checked(LoadOptions, chain, mistakes),
        checked(RequestDefaults, chain, mistakes),
        checked(DownloadOptions, chain, mistakes),
    )


def checked(model: type[Settings], chain: Sequence[Values], mistakes: list[str]) -> Settings:
    """Return the settings in effect, the first of each field in `chain`.

    What is wrong, in effect or not, goes to `mistakes`; its field then has the default.
    """
    effective: dict[str, Given] = {}
    replaced: list[tuple[str, Given]] = []
    for values in chain:
        for name in filter(values.__contains__, model.model_fields):
            if name in effective:
                replaced.append((name, values[name]))
            else:
                effective[name] = values[name]
    settings = _validated(model, effective, mistakes)
    for name, given in replaced:
        _validated(model, {**effective, name: given}, mistakes)
    return settings


def _validated(model: type[Settings], given: Mapping[str, Given], mistakes: list[str]) -> Settings:
    values = {
        name: as_items(model.model_fields[name], each.value)
        for name, each in given.items()
        if not _is_switch_for_number(model, name, each, mistakes)
    }
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            origin = given[str(each["loc"][0])].origin if each["loc"] else _origins(given)
            mistakes.append(explain(model, each, origin))
        return _rest(model, values, error)


def _rest(model: type[Settings], values: Mapping[str, object], error: ValidationError) -> Settings:
    """Return settings of the values that are right; of none where those do not go together."""
    wrong = {each["loc"][0] for each in error.errors(include_url=False) if each["loc"]}
    right = {name: value for name, value in values.items() if name not in wrong}
    try:
        return model.model_validate(right)
    except ValidationError:
        return model.model_construct()


def _is_switch_for_number(
    model: type[BaseModel], name: str, given: Given, mistakes: list[str]
) -> bool:
    """Whether true or false stands for a number, which pydantic would take for 1 or 0."""
    if isinstance(given.value, bool) and is_number(model.model_fields[name]):
        mistakes.append(refusal(model, name, given.value, given.origin))
        return True
    return False


def _origins(given: Mapping[str, Given]) -> str:
    return " and ".join(sorted({each.origin for each in given.values()}))


def _settings(
    models: Sequence[BaseModel],
    chain: Sequence[Values],
    keys: Sequence[str],
    layers: Sequence[Layer],
) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for model in models:
        for name, value in _fields(model):
            given = next((each[name] for each in chain if name in each), None)
            origin = given.origin if given else "default"
            found[name] = Setting(value, origin, _scope(name, given, keys, layers))
    return found


def _scope(name: str, given: Given | None, keys: Sequence[str], layers: Sequence[Layer]) -> Scope:
    if given is None:
        return ""
    scopes: tuple[Scope, ...] = ("model", "family")
    for key, scope in zip(keys, scopes, strict=False):
        if any(layer.models.get(key, {}).get(name) is given for layer in layers):
            return scope
    return "all" if any(layer.general.get(name) is given for layer in layers) else ""


def _fields(model: BaseModel) -> Iterator[tuple[str, Any]]:
    return ((name, getattr(model, name)) for name in type(model).model_fields)


def _sharing(models: Sequence[Named]) -> Iterator[str]:
    """Say of models whose variables would have the same names that they do."""
    seen: dict[str, str] = {}
    for model in models:
        key = model_key(model.name)
        if key not in seen:
            seen[key] = model.name
        elif seen[key] == model.name:
            yield f"Two models have the name {model.name!r}; choose another with NAME=MODEL."
        else:
            yield (
                f"the models {seen[key]!r} and {model.name!r} would share the variables"
                f" OPEN_LLM_{key}_*; choose another name with NAME=MODEL"
            )
