"""Which engine runs a model: by its format and architecture, unless the user says."""

from __future__ import annotations

from typing import NamedTuple

from openllm.config.model import LoadOptions
from openllm.engines import ENGINES, check_installed, engine_name
from openllm.engines.vllm_presence import unfit
from openllm.errors import ConfigurationError
from openllm.models.families import why_not
from openllm.models.folder import read_folder
from openllm.types import LocalModel


class EngineChoice(NamedTuple):
    """An engine's name and, for the log, why it was taken."""

    name: str
    reason: str


def choose_engine(model: LocalModel, options: LoadOptions) -> EngineChoice:
    """Choose the engine of `model`; loads neither an engine nor weights.

    Raises:
        ConfigurationError: The backend asked for is unknown or cannot load this format.
        ModelFileError: A model folder is damaged, or needs code that is not trusted.
        EngineNotInstalledError: The engine's package is missing.
    """
    architecture = ""
    if model.format == "safetensors":
        trust = options.trust_remote_code
        architecture = read_folder(model.path, trust_remote_code=trust).architecture
    choice = _asked(model, options.backend) if options.backend else _fitting(model, architecture)
    if architecture and not options.trust_remote_code:
        _check_architecture(model, architecture, choice.name)
    check_installed(choice.name)
    return choice


def _check_architecture(model: LocalModel, architecture: str, engine: str) -> None:
    """Refuse what the engine is known not to run; of vLLM, the installed version knows better."""
    if engine == "vllm" and unfit(architecture) is None:
        return
    reason = why_not(architecture, engine)
    if reason is not None:
        raise ConfigurationError(f"{model.name!r} cannot run: {reason}", param="backend")


def _asked(model: LocalModel, backend: str) -> EngineChoice:
    name = engine_name(backend)
    if model.format not in ENGINES[name].formats:
        able = [other for other, kind in ENGINES.items() if model.format in kind.formats]
        raise ConfigurationError(
            f"The {name} backend cannot load {model.name!r}, whose format is {model.format};"
            f" use {' or '.join(able)}.",
            param="backend",
        )
    return EngineChoice(name, "it was asked for")


def _fitting(model: LocalModel, architecture: str) -> EngineChoice:
    if not architecture:
        name = next(name for name, kind in ENGINES.items() if model.format in kind.formats)
        return EngineChoice(name, f"the format is {model.format}")
    reason = unfit(architecture)
    if reason is None:
        return EngineChoice("vllm", f"vLLM is installed and runs {architecture} here")
    return EngineChoice("torch", reason)
