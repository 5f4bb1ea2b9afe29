"""The models and families known by name: those of the package, and those that users add.

    openllm.Registry.add_model("mine", "./mine.gguf")

    @openllm.Registry.add_model(model_name="ours")
    class Ours:
        source = "org/name@main"
        defaults = {"temperature": 0.2}

A package adds its models by an entry point in the group `openllm.models`: a function that is
called with the registry, or a class like the one above, which then has the entry point's name.
Entry points are read when a name is looked up that the package itself does not bring.

A family is a name with sizes, defaults and an architecture, a row as in `families.json`:

    openllm.Registry.add_family({
        "name": "house",
        "architecture": "LlamaForCausalLM",
        "example_id": "org/house-7b",
        "sizes": {"7b": "org/house-7b", "70b": "org/house-70b@main"},
        "defaults": {"temperature": 0.2},
    })
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar, get_args, overload

import msgspec

from openllm.config.sources import model_key
from openllm.errors import ConfigurationError
from openllm.models import families
from openllm.models.defaults import check_defaults
from openllm.models.entry_points import LOCK, read_group
from openllm.models.family import read_row
from openllm.models.ref import is_model_name, parse_ref
from openllm.types import ModelFormat

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "openllm.models"

Described = TypeVar("Described", bound=type)


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """A model known by name.

    Attributes:
        source: What the name stands for, in any spelling of a model but another chosen name.
        format: What the files are; None for what their names say.
        defaults: Fields of `LoadOptions` and `RequestDefaults` that the user need not give.
    """

    name: str
    source: str
    format: ModelFormat | None = None
    defaults: Mapping[str, object] = {}


class Registry(Mapping[str, Registered]):
    """Known names in the order they were added; "-" and "_" in a name are the same."""

    def __init__(self, group: str = "") -> None:
        """Begin with no model.

        Args:
            group: Entry points that add more when they are needed; "" for none.
        """
        self._models: dict[str, Registered] = {}
        self._group = group

    @overload
    def add_model(
        self,
        model_name: str,
        source: str,
        *,
        format: ModelFormat | None = None,
        defaults: Mapping[str, object] | None = None,
    ) -> None: ...

    @overload
    def add_model(self, model_name: str) -> Callable[[Described], Described]: ...

    def add_model(
        self,
        model_name: str,
        source: str | None = None,
        *,
        format: ModelFormat | None = None,  # noqa: A002
        defaults: Mapping[str, object] | None = None,
    ) -> Callable[[Described], Described] | None:
        """Let `model_name` stand for a model, before every family of that name.

        Args:
            model_name: As requests will have it; it can be given once.
            source: Any spelling of a model: hub id, URL, path, family. Left out, the method is the
                decorator of a class that has `source`, and if it likes `format` and `defaults`.
            format: "other" for files that an engine of your own reads; None by their names.
            defaults: Settings of the model, such as {"backend": "mine", "temperature": 0.2}.

        Raises:
            ConfigurationError: The name is none, or taken, or the source or a default is wrong.
        """
        if source is None:
            return lambda described: self._add_class(model_name, described)
        self._add(
            Registered(name=model_name, source=source, format=format, defaults=dict(defaults or {}))
        )
        return None

    def add_family(self, row: Mapping[str, object]) -> None:
        """Add a family of models, which `openllm models` lists and `openllm start` knows.

        Families belong to the process, not to one registry. A registered model goes before a
        family of its name, whichever was added first.

        Args:
            row: The fields of `openllm.models.family.Family`, of which `name`, `architecture` and
                `example_id` are needed. An architecture that no family has yet goes into
                `architectures`, with the engines that run it.

        Raises:
            ConfigurationError: The row is wrong, or another family has its name or architecture.
        """
        families.table().add(read_row(row))

    def __getitem__(self, name: str) -> Registered:
        found = self._models.get(_key(name))
        if found is None:
            self._read_entry_points()
            found = self._models.get(_key(name))
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        self._read_entry_points()
        return iter([model.name for model in self._models.values()])

    def __len__(self) -> int:
        self._read_entry_points()
        return len(self._models)

    def _add(self, model: Registered) -> None:
        if not is_model_name(model.name):
            raise ConfigurationError(
                f"{model.name!r} is not a model name: use letters, digits, _ : . -"
            )
        if parse_ref(model.source).name:
            raise ConfigurationError(
                f"The source of the model {model.name!r} is {model.source!r}; leave out the NAME=."
            )
        if model.format is not None and model.format not in get_args(ModelFormat):
            raise ConfigurationError(
                f"The format of the model {model.name!r} is {model.format!r}; use one of"
                f" {', '.join(get_args(ModelFormat))}, or leave it out."
            )
        check_defaults(f"the model {model.name!r}", model.defaults)
        with LOCK:
            for other in self._models.values():
                if model_key(other.name) == model_key(model.name):
                    raise ConfigurationError(_taken(model.name, other.name))
            self._models[_key(model.name)] = model

    def _add_class(self, name: str, described: Described) -> Described:
        source = getattr(described, "source", None)
        if not isinstance(source, str):
            raise ConfigurationError(
                f"The class {described.__name__} of the model {name!r} has no source; give it one,"
                " e.g. source = 'org/name'."
            )
        form: Any = getattr(described, "format", None)
        defaults: Any = getattr(described, "defaults", {})
        self._add(Registered(name=name, source=source, format=form, defaults=dict(defaults)))
        return described

    def _read_entry_points(self) -> None:
        with LOCK:
            group, self._group = self._group, ""
            if group:
                read_group(group, self._take)

    def _take(self, point: EntryPoint, found: Any) -> None:
        if not isinstance(found, type):
            found(self)
        elif _key(point.name) not in self._models:  # Its decorator may have added it already.
            self._add_class(point.name, found)


def _key(name: str) -> str:
    return name.replace("-", "_")


def _taken(name: str, other: str) -> str:
    if _key(name) == _key(other):
        return f"The model name {name!r} is already taken; choose another."
    return (
        f"The model names {name!r} and {other!r} would share their environment variables"
        f" OPEN_LLM_{model_key(name)}_...; choose another."
    )


def _packaged() -> Registry:
    registry = Registry(GROUP)
    registry.add_model("demo", str(files("openllm") / "demo" / "demo-q8_0.gguf"))
    return registry


REGISTRY = _packaged()
"""The registry of this process, in Python `openllm.Registry`."""
