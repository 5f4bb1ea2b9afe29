"""Options that are set for models which have no use for them.

One that is set for a model alone must be of use to it. One that is set for all models, or for all
sizes of a family, holds for those that have a use for it, and is a mistake if none has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from openllm.config.effective import Entry


def misplaced(
    entries: Sequence[Entry], option: str, lacking: Collection[str]
) -> Iterator[tuple[Entry, ...]]:
    """Yield the models for which `option` is a mistake, together where one place is to blame.

    Args:
        entries: All models to be served.
        option: The name of one of their settings.
        lacking: The names of the models that have no use for it.
    """
    scopes = {entry.name: entry.settings[option].scope for entry in entries}
    yield from (
        (entry,) for entry in entries if scopes[entry.name] == "model" and entry.name in lacking
    )
    together: dict[str, list[Entry]] = {}
    for entry in entries:
        if scopes[entry.name] in ("family", "all"):
            together.setdefault(entry.settings[option].origin, []).append(entry)
    for sharing in together.values():
        if all(entry.name in lacking for entry in sharing):
            yield tuple(sharing)
