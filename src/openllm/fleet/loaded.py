"""What the runners of a fleet have read, by which it is told whether a model needs a new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from openllm.config.model import LoadOptions, ModelConfig
from openllm.llm.preprompt import preprompt_text
from openllm.models.adapters import check_names
from openllm.models.tags import content_files
from openllm.types import LocalModel

Settings = Sequence[tuple[LocalModel, ModelConfig]]


class Loaded(NamedTuple):
    """What a runner has read: if any of it is another, the model needs a new one.

    Attributes:
        files: Size and time of the files of the model and its adapters, as they can be
            overwritten under their names.
    """

    model: LocalModel
    load: LoadOptions
    preprompt: str
    files: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, model: LocalModel, config: ModelConfig) -> Loaded:
        parts = (model, model.tokenizer) if model.tokenizer else (model,)
        # What the store has under a tag stays.
        paths = [part.path for part in (*parts, *model.adapters) if not part.tag]
        files = tuple(each for path in paths for each in _files(path))
        return cls(model, config.load, preprompt_text(config.defaults.prompt), files)


def settings_of(
    models: Sequence[LocalModel], configs: Mapping[str, ModelConfig] | None
) -> Settings:
    """Pair models with their settings; raises `ConfigurationError` if two would have one name."""
    check_names((model.name, *(each.name for each in model.adapters)) for model in models)
    return [(model, (configs or {}).get(model.name, ModelConfig())) for model in models]


def loaded_of(settings: Settings) -> dict[str, Loaded]:
    """Return what a runner of each model would read now, by the model's name.

    Raises:
        ConfigurationError: The file of a pre-prompt cannot be read.
    """
    return {model.name: Loaded.of(model, config) for model, config in settings}


def _files(path: str) -> tuple[tuple[str, int, int], ...]:
    try:
        states = [(str(each), each.stat()) for each in content_files(Path(path))]
    except OSError:  # Whoever loads it says what is wrong with it.
        return ()
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)
