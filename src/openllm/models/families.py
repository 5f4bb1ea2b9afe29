"""The families of models known by name: what they are, what runs them and what to install.

The table itself is data, `families.json`. It says what was true of the libraries it was tested
with; whether the installed ones know an architecture is for the engines to find out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from openllm.errors import ConfigurationError

Backend = Literal["pt", "vllm", "ctranslate"]
FamilyEngine = Literal["torch", "vllm"]
Obstacle = Literal["remote_code", "recurrent", "image_only", "encoder_decoder"]

_BACKENDS: dict[FamilyEngine, Backend] = {"torch": "pt", "vllm": "vllm"}
_LIBRARIES: dict[str, str] = {"torch": "transformers", "vllm": "vLLM"}
_OBSTACLES: dict[Obstacle, str] = {
    "remote_code": "transformers has no class of that name, its code came with the model's files",
    "recurrent": "its layers keep a running state, which this engine does not batch",
    "image_only": "transformers loads it as a model of images only",
    "encoder_decoder": "vLLM has no encoder-decoder model of this kind",
}


class Support(Struct, frozen=True, forbid_unknown_fields=True):
    """What runs some architectures.

    Attributes:
        names: The architectures, as in a model's `config.json`.
        runs_on: Engines that run them.
        why: By engine, what keeps it from running them.
        last: By engine, the last version known to run them; for "torch" it is of transformers.
        instead: What to do where an engine does not run them.
    """

    names: tuple[str, ...]
    runs_on: tuple[FamilyEngine, ...]
    why: dict[FamilyEngine, Obstacle] = {}
    last: dict[FamilyEngine, str] = {}
    instead: str = ""


class Family(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One row of the table.

    Attributes:
        name: As `openllm models` prints it, with underscores.
        architecture: The architecture that `openllm models` prints; families may share one.
        example_id: A model of the family on Hugging Face's hub.
        model_types: `model_type` of the configurations that belong to this family alone.
        architectures: What runs the architectures that belong to this family alone.
        aliases: Other names of the family.
        default_id: The model that the family's name alone means, if not the example.
        revision: Commit of the default model; "" for the newest.
        sizes: Other models of the family, by what follows "NAME:"; the value is any spelling of
            a model on the hub, such as "org/name@commit" or "org/name:Q4_K_M".
        defaults: Fields of `LoadOptions` and `RequestDefaults` that suit the family, for those
            that the user leaves out.
        backends: Backends listed where they are not simply the engines that run it.
        extra: Extra of this package with what its tokenizer or code needs; "" for none.
    """

    name: str
    architecture: str
    example_id: str
    model_types: tuple[str, ...]
    architectures: tuple[Support, ...]
    aliases: tuple[str, ...] = ()
    default_id: str = ""
    revision: str = ""
    sizes: dict[str, str] = {}
    defaults: dict[str, object] = {}
    backends: tuple[Backend, ...] = ()
    extra: str = ""

    @property
    def model_id(self) -> str:
        """The model on the hub that the family's name alone means."""
        return self.default_id or self.example_id

    @property
    def source(self) -> str:
        """The default model at its pinned revision, as a reference."""
        return f"{self.model_id}@{self.revision}" if self.revision else self.model_id

    @property
    def supported_backends(self) -> tuple[Backend, ...]:
        """Backends in the order pt, vllm, ctranslate, as `openllm models` prints them."""
        return self.backends or tuple(_BACKENDS[engine] for engine in self.runs_on)

    @property
    def runs_on(self) -> tuple[FamilyEngine, ...]:
        """Engines that run the family's architecture today."""
        return _index().supports[self.architecture].runs_on

    @property
    def installation(self) -> str:
        """The command that installs what the family needs."""
        if self.extra:
            return f'pip install "open-llm-server[{self.extra}]"'
        return "pip install open-llm-server"


class Variant(NamedTuple):
    """A model of a family, as a reference."""

    family: Family
    source: str


class Index(Struct, frozen=True):
    """The table, by family name (in the form that `_plain` gives), by architecture and by id."""

    families: tuple[Family, ...]
    names: Mapping[str, Family]
    owners: Mapping[str, Family]
    supports: Mapping[str, Support]
    ids: Mapping[str, Family]


def families() -> tuple[Family, ...]:
    """Return all families, those of the documents first."""
    return _index().families


def find(name: str) -> Family | None:
    """Return the family called `name`, written with "-" or "_", in any case; None if none is."""
    return _index().names.get(_plain(name))


def variant(text: str) -> Variant | None:
    """Return the model that "NAME" or "NAME:SIZE" means; None if the table has no such one."""
    name, colon, size = text.partition(":")
    family = find(name)
    if family is None:
        return None
    source = family.sizes.get(size.lower()) if colon else family.source
    return None if source is None else Variant(family, source)


def family_of_id(model_id: str) -> Family | None:
    """Return the family that lists this hub id, in any case of letters; None if none does."""
    return _index().ids.get(model_id.lower())


def family_of(architecture: str) -> Family | None:
    """Return the family that `architecture` of a `config.json` belongs to; None if unknown."""
    return _index().owners.get(architecture)


def support_of(architecture: str) -> Support | None:
    """Return what is known to run `architecture`; None if nothing is known of it."""
    return _index().supports.get(architecture)


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
    else:
        yield f"{library} does not run {architecture} any more."
    if engine in support.last:
        yield f"The last version known to run it is {library} {support.last[engine]}."
    yield f"{support.instead[:1].upper()}{support.instead[1:]}."


def _ids(row: Family) -> Iterator[str]:
    """Yield the hub ids of a row, without revision or file, in lower case."""
    for source in (row.example_id, row.model_id, *row.sizes.values()):
        yield source.lower().partition(":")[0].partition("@")[0]


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")


@cache
def _index() -> Index:
    data = files("openllm.models").joinpath("families.json").read_bytes()
    return read_families(data)


def read_families(data: bytes) -> Index:
    """Decode the table and check that nothing in it has two meanings.

    Raises:
        ConfigurationError: A name, an architecture or a model type stands twice, or a row lacks
            what it needs.
    """
    try:
        rows = msgspec.json.decode(data, type=tuple[Family, ...])
    except msgspec.MsgspecError as error:
        raise ConfigurationError(f"The table of model families is damaged: {error}.") from error
    names = ((_plain(name), row) for row in rows for name in (row.name, *row.aliases))
    known = [(name, row, each) for row in rows for each in row.architectures for name in each.names]
    _unique("model type", ((kind, row) for row in rows for kind in row.model_types))
    index = Index(
        families=rows,
        names=_unique("name", names),
        owners=_unique("architecture", ((name, row) for name, row, _ in known)),
        supports={name: support for name, _, support in known},
        ids={each: row for row in reversed(rows) for each in _ids(row)},
    )
    _check_complete(index)
    return index


def _check_complete(index: Index) -> None:
    for row in index.families:
        if row.architecture not in index.supports:
            raise ConfigurationError(
                f"The family {row.name!r} names the architecture {row.architecture!r}, which is"
                " in no family's list; add it to one."
            )
    for name, support in index.supports.items():
        if len(support.runs_on) < len(_LIBRARIES) and not support.instead:
            raise ConfigurationError(
                f"The architecture {name!r} lacks an engine and does not say what to use instead."
            )


def _unique(what: str, pairs: Iterator[tuple[str, Family]]) -> dict[str, Family]:
    found: dict[str, Family] = {}
    for key, row in pairs:
        if key in found:
            raise ConfigurationError(
                f"The {what} {key!r} stands twice in the table of model families, in"
                f" {found[key].name!r} and {row.name!r}; leave it in one."
            )
        found[key] = row
    return found
