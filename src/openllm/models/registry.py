"""The models known by name: each name and the file it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files

from openllm.errors import ConfigurationError

MAX_NAME_LENGTH = 128

# The characters of model names that every API surface accepts; "-" and "." never come first.
_NAME = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_:.\-]*")


def is_model_name(name: str) -> bool:
    """Whether requests can use `name` for a model."""
    fits = _NAME.fullmatch(name) is not None and len(name) <= MAX_NAME_LENGTH
    return fits and ".." not in name


class Registry:
    """Known names in the order they were added; each stands for one model file."""

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}

    def add_model(self, name: str, path: str) -> None:
        """Let `name` stand for the file at `path`; a name can be given once."""
        if not is_model_name(name):
            raise ConfigurationError(f"{name!r} is not a model name: use letters, digits, _ : . -")
        if name in self._paths:
            raise ConfigurationError(f"The model name {name!r} is already taken; choose another.")
        self._paths[name] = path

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def path(self, name: str) -> str | None:
        """Return the file that `name` stands for; None for an unknown name."""
        return self._paths.get(name)


def _package_files(paths: Mapping[str, str]) -> Registry:
    registry = Registry()
    for name, path in paths.items():
        registry.add_model(name, str(files("openllm").joinpath(*path.split("/"))))
    return registry


BUNDLED = _package_files({"demo": "demo/demo-q8_0.gguf"})
"""The models whose files come with the package."""
