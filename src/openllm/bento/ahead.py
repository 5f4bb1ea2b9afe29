"""What is wrong with models that are not here yet, found before a byte of their weights comes."""

from __future__ import annotations

from collections.abc import Iterator

from openllm.bento.devices import check_device
from openllm.bento.heeded import options_lacking
from openllm.bento.options import blame
from openllm.bento.preflight import memory_doubt
from openllm.config.effective import Configuration, Entry
from openllm.config.explain import together
from openllm.errors import ConfigurationError, EngineNotInstalledError
from openllm.llm.ahead import engine_ahead
from openllm.models.ref import parse_ref


def check_ahead(configuration: Configuration) -> None:
    """Check the engine, the options and the device of every model, downloaded or not.

    Raises:
        ConfigurationError: Something is wrong; the message names all of it.
        EngineNotInstalledError: An engine's package is missing; says what to do.
        OpenLLMError: There is no such model, or its server fails.
    """
    mistakes: list[str] = []
    found = {entry.name: _checked_engine(entry, mistakes) for entry in configuration.entries}
    engines = {name: engine for name, engine in found.items() if engine}
    mistakes += options_lacking(configuration.entries, engines)
    if mistakes:
        raise ConfigurationError(together(mistakes))


def doubts(entry: Entry) -> Iterator[str]:
    """Say what keeps this model alone from being served here, once it is downloaded.

    Raises:
        OpenLLMError: There is no such model, no engine runs it, or its server fails.
    """
    try:
        _engine(entry)
    except EngineNotInstalledError as error:
        yield f"{entry.name!r} is downloaded and cannot be served here yet: {error.message}"
    if doubt := memory_doubt(entry):
        yield doubt


def _checked_engine(entry: Entry, mistakes: list[str]) -> str:
    """Return the engine of a model, "" if there is none; it may lack the device asked for."""
    engine = ""
    try:
        engine = _engine(entry)
        check_device(engine, entry.config.load)
    except ConfigurationError as error:
        mistakes.append(blame(error, entry.settings))
    return engine


def _engine(entry: Entry) -> str:
    return engine_ahead(parse_ref(entry.text), entry.config.load, entry.download)
