"""One row of the table of model families, and the table as it is looked up.

A row is data: of the package in `families.json`, of others in the same shape, by
`Registry.add_family` or an entry point. All are checked alike: no name, architecture or model type
has two meanings, and what does not run says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from openllm.errors import ConfigurationError
from openllm.models.defaults import check_defaults
from openllm.models.ref import is_model_name, parse_ref
from openllm.types import ModelFormat

Library = Literal["torch", "vllm"]
Obstacle = Literal["remote_code", "recurrent", "image_only", "encoder_decoder"]

_BACKENDS = {"torch": "pt", "vllm": "vllm"}


class Support(Struct, frozen=True, forbid_unknown_fields=True):
    """What runs some architectures.

    Attributes:
        names: The architectures, as in a model's `config.json`.
        runs_on: Engines that run them.
        why: By engine, what keeps it from running them.
        last: By engine, the last version known to run them; for "torch" it is of transformers.
        instead: What to do where an engine does not run them; left out, to use one that does.
    """

    names: tuple[str, ...]
    runs_on: tuple[str, ...]
    why: dict[Library, Obstacle] = {}
    last: dict[Library, str] = {}
    instead: str = ""


class Family(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One row of the table.

    Attributes:
        name: As `openllm models` prints it, with underscores.
        architecture: The architecture that `openllm models` prints; families may share one.
        example_id: A model of the family, as `openllm models` prints it: a hub id, URL or path.
        model_types: `model_type` of the configurations that belong to this family alone.
        architectures: What runs the architectures that belong to this family alone.
        aliases: Other names of the family.
        default_id: The model that the family's name alone means, if not the example.
        revision: Commit of the default model; "" for the newest.
        sizes: Other models of the family, by what follows "NAME:"; the value is any spelling of
            a hub id, URL or path, such as "org/name@commit" or "org/name:Q4_K_M".
        format: "other" for files that an engine of another package reads; None by their names.
        defaults: Fields of `LoadOptions` and `RequestDefaults` that suit the family, for those
            that the user leaves out.
        backends: As `openllm models` prints them; left out, the engines that run it.
        extra: Extra of this package with what its tokenizer or code needs; "" for none.
        install: What `pip install` needs to run it; left out, this package with the extra.
    """

    name: str
    architecture: str
    example_id: str
    model_types: tuple[str, ...] = ()
    architectures: tuple[Support, ...] = ()
    aliases: tuple[str, ...] = ()
    default_id: str = ""
    revision: str = ""
    sizes: dict[str, str] = {}
    format: ModelFormat | None = None
    defaults: dict[str, object] = {}
    backends: tuple[str, ...] = ()
    extra: str = ""
    install: str = ""

    @property
    def model_id(self) -> str:
        """The model that the family's name alone means."""
        return self.default_id or self.example_id

    @property
    def source(self) -> str:
        """The default model at its pinned revision, as a reference."""
        return self._pinned(self.model_id)

    @property
    def models(self) -> dict[str, str]:
        """The family's models as references, by what follows "NAME:"."""
        return {size: self._pinned(source) for size, source in self.sizes.items()}

    @property
    def installation(self) -> str:
        """The command that installs what the family needs."""
        extra = f'"open-llm-server[{self.extra}]"' if self.extra else "open-llm-server"
        return f"pip install {self.install or extra}"

    def _pinned(self, source: str) -> str:
        """Return `source`, at the pinned revision if it is the default model."""
        if self.revision and source.lower() == self.model_id.lower():
            return f"{source}@{self.revision}"
        return source


class Index(Struct, frozen=True):
    """The table, by family name (in the form that `plain` gives), by architecture and by id."""

    families: tuple[Family, ...]
    names: Mapping[str, Family]
    owners: Mapping[str, Family]
    supports: Mapping[str, Support]
    ids: Mapping[str, Family]


def plain(name: str) -> str:
    """Return `name` in the one spelling that the table is looked up by."""
    return re.sub(r"[-.]", "_", name.strip().lower())


def read_rows(data: bytes) -> tuple[Family, ...]:
    """Decode the rows of a table.

    Raises:
        ConfigurationError: A row lacks a field, has an unknown one or a value of a wrong type.
    """
    try:
        return msgspec.json.decode(data, type=tuple[Family, ...])
    except msgspec.MsgspecError as error:
        raise ConfigurationError(f"The table of model families is damaged: {error}.") from error


def read_row(row: object) -> Family:
    """Decode a row from outside of the package, a mapping; check its names and references.

    Raises:
        ConfigurationError: As for `read_rows`; or a name could not be typed, a model not be found,
            or a default is no setting.
    """
    try:
        family = msgspec.convert(row, Family)
    except msgspec.MsgspecError as error:
        raise ConfigurationError(
            f"The row of a model family is wrong: {error}; it is {str(row)[:200]}, and it may have"
            f" {', '.join(Family.__struct_fields__)}."
        ) from error
    _check_names(family)
    if family.revision and parse_ref(family.model_id).kind != "hub":
        raise ConfigurationError(
            f"The model family {family.name!r} has the revision {family.revision!r}, and"
            f" {family.model_id!r} is not on a hub; leave the revision out."
        )
    for source in (family.example_id, family.source, *family.models.values()):
        _check_source(family, source)
    check_defaults(f"the model family {family.name!r}", family.defaults)
    return family


def index_of(rows: Iterable[Family]) -> Index:
    """Check that nothing in the rows has two meanings, and return the table they make.

    Raises:
        ConfigurationError: A name, an architecture or a model type stands twice, or a row lacks
            what it needs.
    """
    rows = tuple(rows)
    _unique("name", ((plain(name), row) for row in rows for name in _names(row)))
    _unique("model type", ((kind, row) for row in rows for kind in row.model_types))
    known = [(name, row, each) for row in rows for each in row.architectures for name in each.names]
    _unique("architecture", ((name, row) for name, row, _ in known))
    supports = {name: _with_instead(name, support) for name, _, support in known}
    rows = tuple(_with_backends(row, supports) for row in rows)
    return Index(
        families=rows,
        names={plain(name): row for row in rows for name in _names(row)},
        owners={name: row for row in rows for each in row.architectures for name in each.names},
        supports=supports,
        ids={each: row for row in reversed(rows) for each in _ids(row)},
    )


def _names(row: Family) -> tuple[str, ...]:
    return (row.name, *row.aliases)


def _ids(row: Family) -> Iterator[str]:
    """Yield the hub ids of a row, without revision or file, and its URLs, in lower case."""
    for source in (row.example_id, row.model_id, *row.sizes.values()):
        model = source.lower()
        yield model if "://" in model else model.partition(":")[0].partition("@")[0]


def _check_names(row: Family) -> None:
    names = [*_names(row), *row.sizes]
    wrong = [name for name in names if not is_model_name(name) or ":" in name]
    wrong += [size for size in row.sizes if size != size.lower()]
    if wrong:
        raise ConfigurationError(
            f"The model family {row.name!r} has {wrong[0]!r}, which is no name or size: use"
            " letters, digits, _ . -, and small letters in a size."
        )


def _check_source(row: Family, source: str) -> None:
    ref = parse_ref(source)
    if ref.kind == "name" or ref.name:
        raise ConfigurationError(
            f"The model family {row.name!r} has the model {source!r}; give a hub id such as"
            " org/name, a URL, or a path with a '/'."
        )


def _with_instead(name: str, support: Support) -> Support:
    """Return `support` with something to do where an engine does not run the architecture."""
    if support.instead or _BACKENDS.keys() <= set(support.runs_on):
        return support
    if not support.runs_on:
        raise ConfigurationError(
            f"The architecture {name!r} lacks an engine and does not say what to use instead."
        )
    return replace(support, instead=f"use --backend {support.runs_on[0]}")


def _with_backends(row: Family, supports: Mapping[str, Support]) -> Family:
    support = supports.get(row.architecture)
    if support is None:
        raise ConfigurationError(
            f"The family {row.name!r} names the architecture {row.architecture!r}, which is"
            " in no family's list; add it to one."
        )
    if row.backends:
        return row
    runs_on = [*support.runs_on]
    if any(parse_ref(source).file for source in row.sizes.values()):  # A GGUF file.
        runs_on.append("llamacpp")
    return replace(row, backends=tuple(_BACKENDS.get(each, each) for each in runs_on))


def _unique(what: str, pairs: Iterable[tuple[str, Family]]) -> None:
    found: dict[str, Family] = {}
    for key, row in pairs:
        if key in found and found[key].name == row.name:
            raise ConfigurationError(
                f"There is a model family {row.name!r} already, or it has the {what} {key!r}"
                " twice; choose another name."
            )
        if key in found:
            raise ConfigurationError(
                f"The {what} {key!r} stands twice in the table of model families, in"
                f" {found[key].name!r} and {row.name!r}; leave it in one."
            )
        found[key] = row
