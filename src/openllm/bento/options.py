"""From loose options, as flags or keyword arguments give them, to checked settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from openllm.config.model import LoadOptions, ModelConfig, RequestDefaults
from openllm.config.server import ServerSettings
from openllm.errors import ConfigurationError

Settings = TypeVar("Settings", bound=BaseModel)

OPTION_MODELS: tuple[type[BaseModel], ...] = (ServerSettings, LoadOptions, RequestDefaults)


def split_options(options: Mapping[str, object]) -> tuple[ServerSettings, ModelConfig]:
    """Check every option against the field of its name; options left out take their defaults.

    Raises:
        ConfigurationError: Names the option, its value and what is allowed; all mistakes at once.
    """
    known = [name for model in OPTION_MODELS for name in model.model_fields]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigurationError(f"unknown option {name!r}{hint}", param=name)
    server = _build(ServerSettings, options)
    load, defaults = _build(LoadOptions, options), _build(RequestDefaults, options)
    return server, ModelConfig(load=load, defaults=defaults)


def _build(model: type[Settings], options: Mapping[str, object]) -> Settings:
    given = {name: options[name] for name in model.model_fields if name in options}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        lines = [_explain(dict(each)) for each in error.errors(include_url=False)]
        raise ConfigurationError("; ".join(lines)) from None


def _explain(error: Mapping[str, object]) -> str:
    location = error["loc"]
    name = str(location[0]) if isinstance(location, tuple) and location else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    if not name:
        return message
    flag = "--" + name.replace("_", "-")
    return f"{flag} {error['input']!r}: {message[:1].lower()}{message[1:]}"
