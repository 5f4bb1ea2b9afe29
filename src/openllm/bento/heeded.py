"""Options that an engine does not have are refused, as soon as the engine of a model is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from openllm.bento.options import blame
from openllm.config.effective import Entry
from openllm.config.scope import misplaced
from openllm.llm.choice import not_heeded, unheeded


def options_lacking(entries: Sequence[Entry], engines: Mapping[str, str]) -> Iterator[str]:
    """Say of options that engines lack that they do.

    Args:
        entries: All models to be served.
        engines: Theirs, by the names of the models; one that is left out is not known.
    """
    lacking: dict[str, list[str]] = {}
    for entry in entries:
        if entry.name in engines:
            for option in unheeded(engines[entry.name], entry.config.load):
                lacking.setdefault(option, []).append(entry.name)
    for option, names in lacking.items():
        for wrong in misplaced(entries, option, names):
            error = not_heeded({entry.name: engines[entry.name] for entry in wrong}, option)
            yield blame(error, wrong[0].settings)
