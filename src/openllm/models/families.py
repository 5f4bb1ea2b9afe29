"""The families of models known by name: what they are, what runs them and what to install.

The table itself is data, `families.json`. It says what was true of the libraries it was tested
with; whether the installed ones know an architecture is for the engines to find out. Programs add
rows by `Registry.add_family`, packages by entry points in the group `openllm.families`, which name
a row or a list of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from openllm.models.entry_points import LOCK, read_group
from openllm.models.family import (
    Family,
    Index,
    Obstacle,
    Support,
    index_of,
    plain,
    read_row,
    read_rows,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "openllm.families"

_LIBRARIES: dict[str, str] = {"torch": "transformers", "vllm": "vLLM"}
_OBSTACLES: dict[Obstacle, str] = {
    "remote_code": "transformers has no class of that name, its code came with the model's files",
    "recurrent": "its layers keep a running state, which this engine does not batch",
    "image_only": "transformers loads it as a model of images only",
    "encoder_decoder": "vLLM has no encoder-decoder model of this kind",
}


class Families:
    """The rows of a package, then those that were added, in the order of their coming."""

    def __init__(self, rows: tuple[Family, ...] = (), group: str = "") -> None:
        """Begin with `rows`.

        Args:
            rows: Of the package.
            group: Entry points that add more when the table is first read; "" for none.

        Raises:
            ConfigurationError: Something in the rows has two meanings.
        """
        self._index = index_of(rows)
        self._group = group

    @property
    def index(self) -> Index:
        """The table with what entry points add, which are read once."""
        with LOCK:
            group, self._group = self._group, ""
            if group:
                read_group(group, self._take)
            return self._index

    def add(self, family: Family) -> None:
        """Add one row.

        Raises:
            ConfigurationError: A name, an architecture or a model type of it is taken.
        """
        with LOCK:
            self._index = index_of((*self._index.families, family))

    def _take(self, point: EntryPoint, found: object) -> None:
        for row in found if isinstance(found, list | tuple) else [found]:
            self.add(read_row(row))


@cache
def table() -> Families:
    """Return the table of this process."""
    data = files("openllm.models").joinpath("families.json").read_bytes()
    return Families(read_rows(data), GROUP)


class Variant(NamedTuple):
    """A model of a family, as a reference."""

    family: Family
    source: str


def families() -> tuple[Family, ...]:
    """Return all families: those of the documents first, those that were added last."""
    return table().index.families


def find(name: str) -> Family | None:
    """Return the family called `name`, written with "-", "_" or ".", in any case; or None."""
    return table().index.names.get(plain(name))


def variant(text: str) -> Variant | None:
    """Return the model that "NAME" or "NAME:SIZE" means; None if the table has no such one."""
    name, colon, size = text.partition(":")
    family = find(name)
    if family is None:
        return None
    source = family.models.get(size.lower()) if colon else family.source
    return None if source is None else Variant(family, source)


def family_of_id(model_id: str) -> Family | None:
    """Return the family that lists this hub id or URL, in any case of letters; or None."""
    return table().index.ids.get(model_id.lower())


def family_of(architecture: str) -> Family | None:
    """Return the family that `architecture` of a `config.json` belongs to; None if unknown."""
    return table().index.owners.get(architecture)


def support_of(architecture: str) -> Support | None:
    """Return what is known to run `architecture`; None if nothing is known of it."""
    return table().index.supports.get(architecture)


def why_not(architecture: str, engine: str) -> str | None:
    """Explain why `engine`, "torch" or "vllm", does not run `architecture`, and what to do.

    Returns:
        Sentences for an error message; None where the table has nothing against it.
    """
    support = support_of(architecture)
    if support is None or engine in support.runs_on or engine not in _LIBRARIES:
        return None
    return " ".join(_sentences(architecture, engine, support))


def _sentences(architecture: str, engine: str, support: Support) -> Iterator[str]:
    library = _LIBRARIES[engine]
    if engine in support.why:
        obstacle = _OBSTACLES[support.why[engine]]
        yield f"The {engine} engine does not run {architecture}: {obstacle}."
    elif engine in support.last:
        yield f"{library} does not run {architecture} any more."
    else:
        yield f"The {engine} engine does not run {architecture}."
    if engine in support.last:
        yield f"The last version known to run it is {library} {support.last[engine]}."
    yield f"{support.instead[:1].upper()}{support.instead[1:]}."
