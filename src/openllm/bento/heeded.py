"""Options that an engine does not have are refused, as soon as the engine of a model is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from openllm.bento.options import blame
from openllm.config.effective import Configuration, Entry
from openllm.config.explain import together
from openllm.config.scope import misplaced
from openllm.errors import ConfigurationError
from openllm.llm.choice import choose_engine, not_heeded, unheeded
from openllm.types import LocalModel


def check_heeded(configuration: Configuration, models: Sequence[LocalModel]) -> None:
    """Check the options of all models, which are here by now, in their order.

    Raises:
        ConfigurationError: Engines lack options that are set; the message names all of them.
        OpenLLMError: A model has no engine here.
    """
    mistakes = list(unheeded_options(configuration.entries, {each.name: each for each in models}))
    if mistakes:
        raise ConfigurationError(together(mistakes))


def unheeded_options(entries: Sequence[Entry], models: Mapping[str, LocalModel]) -> Iterator[str]:
    """Say of options that engines lack that they do.

    Args:
        entries: All models to be served.
        models: Those of them that are here, by name; of others the engine is not known.

    Raises:
        OpenLLMError: A model has no engine here.
    """
    engines: dict[str, str] = {}
    lacking: dict[str, list[str]] = {}
    for entry in entries:
        if entry.name in models:
            engine = choose_engine(models[entry.name], entry.config.load).name
            engines[entry.name] = engine
            for option in unheeded(engine, entry.config.load):
                lacking.setdefault(option, []).append(entry.name)
    for option, names in lacking.items():
        for wrong in misplaced(entries, option, names):
            error = not_heeded({entry.name: engines[entry.name] for entry in wrong}, option)
            yield blame(error, wrong[0].settings)
