"""A model's settings over those that its family or its registration brings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel

from openllm.config.model import ModelConfig
from openllm.llm import arguments

Settings = TypeVar("Settings", bound=BaseModel)


def with_defaults(given: ModelConfig, defaults: Mapping[str, object]) -> ModelConfig:
    """Return `given`, where what nobody set has the value in `defaults`.

    Args:
        given: What the user said.
        defaults: Values by the names of fields of `LoadOptions` and `RequestDefaults`.

    Raises:
        TypeError: A default has no such name.
        ConfigurationError: A default has no such value.
    """
    if not defaults:
        return given
    base = arguments.model_config(None, defaults)
    return ModelConfig(
        load=_over(base.load, given.load), defaults=_over(base.defaults, given.defaults)
    )


def _over(base: Settings, given: Settings) -> Settings:
    """Return `base` with the fields of `given` that were set; an empty list sets nothing."""
    own = {name: getattr(given, name) for name in given.model_fields_set}
    return base.model_copy(update={name: value for name, value in own.items() if value != ()})
