"""How tokens are made: the engine door and one adapter per engine, imported when first used."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple, cast

from openllm.config.model import LoadOptions
from openllm.engines.base import Engine
from openllm.errors import ConfigurationError, EngineNotInstalledError
from openllm.types import LocalModel, ModelFormat


class EngineKind(NamedTuple):
    """One row of the table of engines.

    Attributes:
        target: Where its class is, as "module:Class".
        formats: The formats of models it loads.
        needs: Top-level modules it imports; none is imported to find out whether they are there.
        install: What to install when one is missing.
    """

    target: str
    formats: tuple[ModelFormat, ...]
    needs: tuple[str, ...] = ()
    install: str = "open-llm-server"


ENGINES = {
    "llamacpp": EngineKind(
        "openllm.engines.llamacpp_engine:LlamaCppEngine", ("gguf",), ("xllamacpp",)
    ),
    "vllm": EngineKind(
        "openllm.engines.vllm_engine:VLLMEngine", ("safetensors",), ("vllm",), "vllm"
    ),
    "torch": EngineKind(
        "openllm.engines.torch_engine:TorchEngine",
        ("safetensors",),
        ("torch", "transformers", "llguidance"),
        "open-llm-server[torch]",
    ),
    "scripted": EngineKind("openllm.engines.scripted_engine:ScriptedEngine", ("script",)),
}

_ALIASES = {
    "llama.cpp": "llamacpp",
    "llama_cpp": "llamacpp",
    "cpp": "llamacpp",
    "pt": "torch",
    "pytorch": "torch",
    "transformers": "torch",
}


def engine_name(text: str) -> str:
    """Return the engine that `text` means, whatever its spelling.

    Raises:
        ConfigurationError: There is no such engine.
    """
    name = text.strip().lower().replace("-", "_")
    name = _ALIASES.get(name, name)
    if name not in ENGINES:
        raise ConfigurationError(
            f"There is no backend {text!r}; known are {', '.join(ENGINES)}.", param="backend"
        )
    return name


def missing_modules(name: str) -> tuple[str, ...]:
    """Return the modules that engine `name` needs and that are not installed."""
    return tuple(module for module in ENGINES[name].needs if find_spec(module) is None)


def check_installed(name: str) -> None:
    """Raise `EngineNotInstalledError`, saying what to install, if a module is missing."""
    missing = missing_modules(name)
    if missing:
        raise EngineNotInstalledError(
            f"The {name} backend needs {' and '.join(missing)}, which this Python does not have;"
            f" run: pip install '{ENGINES[name].install}'"
        )


def create_engine(name: str, model: LocalModel, options: LoadOptions) -> Engine:
    """Build engine `name` for `model` without loading anything.

    Raises:
        EngineNotInstalledError: A package it needs is missing.
    """
    check_installed(name)
    module, _, attribute = ENGINES[name].target.partition(":")
    return cast(Engine, getattr(import_module(module), attribute)(model, options))
