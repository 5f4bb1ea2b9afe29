"""Which engine runs a model: by its format and architecture, unless the user says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from openllm.config.model import LoadOptions
from openllm.engines import (
    check_installed,
    engine_kind,
    engine_name,
    engines_for,
    engines_with,
)
from openllm.engines.vllm_presence import unfit
from openllm.errors import ConfigurationError
from openllm.models.adapter_layers import check_layers
from openllm.models.families import why_not
from openllm.models.folder import check_tokenizer, read_folder, read_tokenizer
from openllm.types import LocalModel, ModelFormat


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
    architecture, trust = "", options.trust_remote_code
    if model.format == "safetensors":
        weights = options.load_format != "dummy"
        folder = read_folder(model.path, trust_remote_code=trust, weights=weights)
        architecture = folder.architecture
    if model.tokenizer is not None:
        read_tokenizer(model.tokenizer.path, trust_remote_code=trust)
    choice = choose_by_facts(model.name, model.format, architecture, options)
    own = model.tokenizer is None and not options.other_tokenizer  # That may have to be fetched.
    if architecture and own and "tokenizer" in engine_kind(choice.name).options:
        check_tokenizer(model.path, trust_remote_code=trust)
    for adapter in model.adapters:
        check_adapter(adapter.label, adapter.format, choice.name)
        if model.format == "safetensors" and options.load_format != "dummy":
            check_layers(adapter, model.path)
    return choice


def choose_by_facts(
    name: str,
    form: ModelFormat,
    architecture: str,
    options: LoadOptions,
    *,
    installed: bool = True,
) -> EngineChoice:
    """Choose the engine of a model whose files need not be here.

    Args:
        name: Of the model, for messages.
        form: What its files are.
        architecture: As its `config.json` names it; "" for formats that have none.
        options: Of these, `backend` and `trust_remote_code` count.
        installed: Whether the engine must be installed here.

    Raises:
        ConfigurationError: The backend asked for is unknown, or cannot load this model.
        EngineNotInstalledError: The engine's package is missing.
    """
    if options.backend:
        choice = _asked(name, form, options.backend)
    else:
        choice = _fitting(name, form, architecture)
    if architecture and not options.trust_remote_code:
        _check_architecture(name, architecture, choice.name)
    if installed:
        check_installed(choice.name)
    return choice


def unheeded(engine: str, options: LoadOptions) -> tuple[str, ...]:
    """Return the options that are set to more than their defaults and that `engine` ignores."""
    heeded = (*engine_kind(engine).options, "backend")
    return tuple(
        name
        for name, field in LoadOptions.model_fields.items()
        if name not in heeded and getattr(options, name) != field.default
    )


def not_heeded(engines: Mapping[str, str], option: str) -> ConfigurationError:
    """Return the error for an option that no engine of these models has.

    Args:
        engines: The engine of each model, by the model's name.
        option: A field of `LoadOptions`.
    """
    runs = ", ".join(f"{name!r} runs on {engine}" for name, engine in engines.items())
    verb = "has" if len(engines) == 1 else "have"
    having = " or ".join(engines_with(option))
    return ConfigurationError(
        f"{runs}, which {verb} no option {option!r}; leave it out, or give it to models that run"
        f" on {having}",
        param=option,
    )


def check_adapter(label: str, form: ModelFormat, engine: str) -> None:
    """Check that the engine takes an adapter of this format.

    Raises:
        ConfigurationError: It does not; names the adapter by its `label`. Engines that take no
            adapters at all are left to the check of options.
    """
    kind = engine_kind(engine)
    if "lora" in kind.options and form not in kind.formats:
        wanted = "a GGUF file" if form != "gguf" else "a folder or a repository of peft"
        raise ConfigurationError(
            f"the adapter {label!r} is not for {engine}, which takes {wanted}", param="lora"
        )


def _check_architecture(name: str, architecture: str, engine: str) -> None:
    """Refuse what the engine is known not to run; of vLLM, the installed version knows better."""
    if engine == "vllm" and unfit(architecture) is None:
        return
    reason = why_not(architecture, engine)
    if reason is not None:
        raise ConfigurationError(f"{name!r} cannot run: {reason}", param="backend")


def _asked(name: str, form: ModelFormat, backend: str) -> EngineChoice:
    engine = engine_name(backend)
    if form in engine_kind(engine).formats:
        return EngineChoice(engine, "it was asked for")
    raise ConfigurationError(
        f"The {engine} backend cannot load {name!r}, whose format is {form};"
        f" use {' or '.join(engines_for(form))}.",
        param="backend",
    )


def _fitting(name: str, form: ModelFormat, architecture: str) -> EngineChoice:
    if not architecture:
        engine = next(engines_for(form), None)
        if engine is None:
            raise ConfigurationError(
                f"No engine loads {name!r}, whose format is {form}; install the package that has"
                " one, or add it by openllm.engines.add_engine.",
                param="backend",
            )
        return EngineChoice(engine, f"the format is {form}")
    reason = unfit(architecture)
    if reason is None:
        return EngineChoice("vllm", f"vLLM is installed and runs {architecture} here")
    return EngineChoice("torch", reason)
