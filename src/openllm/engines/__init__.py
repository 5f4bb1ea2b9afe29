"""How tokens are made: the engine door and one adapter per engine, imported when first used.

An engine of the user's own comes through the same table: `add_engine` in a program, or an entry
point in the group `openllm.engines`, whose name is the engine's and which is an `EngineKind`.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from openllm.config.model import LoadOptions
from openllm.engines.base import Engine
from openllm.engines.kinds import BUILT_IN, EngineKind
from openllm.errors import (
    ConfigurationError,
    EngineNotInstalledError,
    EngineStartError,
    OpenLLMError,
)
from openllm.types import LocalModel, ModelFormat

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "ENGINES",
    "EngineKind",
    "add_engine",
    "added_engines",
    "check_installed",
    "create_engine",
    "engine_kind",
    "engine_name",
    "engine_names",
    "engines_for",
    "engines_with",
    "installation",
    "missing_modules",
]

logger = logging.getLogger("openllm.engines")

GROUP = "openllm.engines"


ENGINES = dict(BUILT_IN)

_WITHOUT_GPU = {"vllm": ", or on a machine without a GPU what docs/engines.md says under vllm"}
"""What else is to be known before an engine is installed."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.]*")

_ALIASES = {
    "llama.cpp": "llamacpp",
    "llama_cpp": "llamacpp",
    "cpp": "llamacpp",
    "pt": "torch",
    "pytorch": "torch",
    "transformers": "torch",
}


def add_engine(
    name: str,
    target: str,
    formats: Iterable[ModelFormat] = ("other",),
    needs: Iterable[str] = (),
    install: str = "",
    options: Iterable[str] = EngineKind._field_defaults["options"],
) -> None:
    """Let `name` be an engine, as `--backend name` and as a model's default `backend`.

    Args:
        name: Lower-case letters, digits, "_" and "."; it can be given once.
        target: Where its class is, as "module:Class". Each model runs in a process of its own,
            which imports the module by this name.
        formats: What it loads; "other" for files that only this engine reads.
        needs: Top-level modules that it imports.
        install: What to give to `pip install` when one of them is missing.
        options: The fields of `LoadOptions` that it heeds, others are refused; all if left out.

    Raises:
        ConfigurationError: The name is none or taken, an option is none, or the class cannot be
            found by its name.
    """
    kind = EngineKind(target, tuple(formats), tuple(needs), install or name, tuple(options))
    if not _NAME.fullmatch(name) or name in _ALIASES:
        raise ConfigurationError(
            f"{name!r} cannot be the name of an engine; use lower-case letters, digits, '_', '.'."
        )
    if unknown := set(kind.options) - LoadOptions.model_fields.keys():
        raise ConfigurationError(
            f"The engine {name!r} heeds {', '.join(sorted(unknown))}, which LoadOptions does not"
            " have; give names of its fields."
        )
    if name in ENGINES and ENGINES[name] != kind:
        raise ConfigurationError(f"The engine name {name!r} is already taken; choose another.")
    module, colon, attribute = target.partition(":")
    if not (module and colon and attribute.isidentifier()) or module == "__main__":
        raise ConfigurationError(
            f"The engine {name!r} is at {target!r}; put its class into a module that can be"
            " imported anywhere and write 'module:Class'."
        )
    ENGINES[name] = kind


def added_engines() -> dict[str, EngineKind]:
    """Return the engines that this process was given, for processes that it starts."""
    return {name: kind for name, kind in ENGINES.items() if name not in BUILT_IN}


def engine_names() -> tuple[str, ...]:
    """Return every known engine, those of other packages last; imports none of them."""
    return tuple(dict.fromkeys((*ENGINES, *_entry_points())))


def engine_kind(name: str) -> EngineKind:
    """Return what is known of engine `name`, as `engine_name` gives it.

    Raises:
        ConfigurationError: An entry point has that name and cannot be read.
    """
    if name not in ENGINES:
        kind = _read(_entry_points()[name])
        add_engine(name, *kind)
    return ENGINES[name]


def engine_name(text: str) -> str:
    """Return the engine that `text` means, whatever its spelling.

    Raises:
        ConfigurationError: There is no such engine.
    """
    name = text.strip().lower().replace("-", "_")
    name = _ALIASES.get(name, name)
    if name not in ENGINES and name not in engine_names():
        raise ConfigurationError(
            f"There is no backend {text!r}; known are {', '.join(engine_names())}.",
            param="backend",
        )
    return name


def engines_with(option: str) -> tuple[str, ...]:
    """Return the engines, our own and those added, that heed this field of `LoadOptions`."""
    return tuple(name for name, kind in ENGINES.items() if option in kind.options)


def engines_for(form: ModelFormat) -> Iterator[str]:
    """Return the engines that load `form`, our own first, in the order of preference.

    An engine of another package that cannot be read is left out, with a warning.
    """
    return (name for name in engine_names() if _loads(name, form))


def _loads(name: str, form: ModelFormat) -> bool:
    try:
        return form in engine_kind(name).formats
    except ConfigurationError as error:
        logger.warning("%s", error)
        return False


@cache
def _entry_points() -> Mapping[str, EntryPoint]:
    from importlib.metadata import entry_points

    points = {point.name: point for point in entry_points(group=GROUP)}
    for name in points.keys() & BUILT_IN:
        logger.warning("the engine %r of %s has our own's name; rename it", name, points[name])
    return points


def _read(point: EntryPoint) -> EngineKind:
    try:
        found = point.load()
    except Exception as error:
        raise ConfigurationError(
            f"The engine {point.name!r} cannot be imported from {point.value}:"
            f" {type(error).__name__}: {error}; repair or remove that package.",
            param="backend",
        ) from error
    if not isinstance(found, EngineKind):
        raise ConfigurationError(
            f"The engine {point.name!r}: {point.value} is no EngineKind; make it one.",
            param="backend",
        )
    return found


def missing_modules(name: str) -> tuple[str, ...]:
    """Return the modules that engine `name` needs and that are not installed."""
    return tuple(module for module in engine_kind(name).needs if find_spec(module) is None)


def installation(name: str) -> str:
    """Return how to install what engine `name` needs, for a person."""
    return f"pip install '{engine_kind(name).install}'{_WITHOUT_GPU.get(name, '')}"


def check_installed(name: str) -> None:
    """Check, without importing anything, that the modules of engine `name` are there.

    Raises:
        EngineNotInstalledError: One that it needs is missing; says what to install.
        ConfigurationError: The package that holds its class is missing.
    """
    kind = engine_kind(name)
    missing = missing_modules(name)
    if missing:
        raise EngineNotInstalledError(
            f"The {name} backend needs {' and '.join(missing)}, which this Python does not have;"
            f" run: {installation(name)}"
        )
    package = kind.target.partition(":")[0].partition(".")[0]
    if package not in sys.modules and find_spec(package) is None:
        raise ConfigurationError(
            f"The engine {name!r} is at {kind.target!r}, and this Python has no module"
            f" {package!r}; correct that name, or add the module's folder to PYTHONPATH.",
            param="backend",
        )


def create_engine(name: str, model: LocalModel, options: LoadOptions) -> Engine:
    """Build engine `name` for `model` without loading anything.

    Raises:
        EngineNotInstalledError: A package it needs is missing.
        EngineStartError: Its class cannot be imported.
    """
    check_installed(name)
    return cast(Engine, _imported(name)(model, options))


def _imported(name: str) -> Any:
    target = engine_kind(name).target
    module, _, attribute = target.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except OpenLLMError:
        raise
    except Exception as error:
        logger.debug("the engine %s", name, exc_info=True)
        raise EngineStartError(
            f"The engine {name!r} cannot be imported from {target}: {type(error).__name__}:"
            f" {error}; each model runs in a process of its own, which must find that module:"
            " correct it, install it, or add its folder to PYTHONPATH."
        ) from error
