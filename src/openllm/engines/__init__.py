"""How tokens are made: the engine door and one adapter per engine, imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from openllm.config.model import LoadOptions
from openllm.engines.base import Engine
from openllm.types import LocalModel

_ENGINES = {
    "gguf": "openllm.engines.llamacpp_engine:LlamaCppEngine",
    "script": "openllm.engines.scripted_engine:ScriptedEngine",
}


def create_engine(model: LocalModel, options: LoadOptions) -> Engine:
    """Build, without loading anything, the engine that the model's format asks for."""
    module, _, name = _ENGINES[model.format].partition(":")
    return cast(Engine, getattr(import_module(module), name)(model, options))
