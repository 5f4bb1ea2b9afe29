"""`openllm models`: the families of models known by name, and which of them are in the store."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence

import click

from openllm.cli.once import OnceCommand
from openllm.cli.store_flag import store_flag
from openllm.cli.store_table import aligned
from openllm.errors import ConfigurationError
from openllm.models.families import families
from openllm.models.family import Family, plain
from openllm.models.locate import defaults_of, expand, family_of, known_names, stored_model
from openllm.models.membership import items
from openllm.models.ref import parse_ref, shown_source
from openllm.models.registry import REGISTRY, Registered
from openllm.models.store import stored

_GAP = "  "
_NARROW = 40

Row = dict[str, object]


@click.command(cls=OnceCommand)
@click.argument("family", required=False)
@click.option("--family", "chosen", metavar="NAME", help="Show this family only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as it is when piped.")
@store_flag
def models(family: str | None, chosen: str | None, as_json: bool) -> None:
    """List the families of models known by name, with what of them is in the store.

    Each name can be served: `openllm start qwen3:0.6b-gguf`. Piped, the list is JSON.
    """
    if family and chosen and family != chosen:
        raise click.UsageError(f"{family} and --family {chosen} are two families; give one.")
    wanted = family or chosen
    tags = items(stored())
    listed = [row for row in families() if not wanted or _is_called(row, wanted)]
    added = [row for row in REGISTRY.values() if not wanted or row.name == wanted]
    if not listed and not added:
        raise click.UsageError(_unknown(wanted or ""))
    if as_json or not sys.stdout.isatty():
        found = {row.name: _of_family(row, tags) for row in listed}
        found |= {row.name: _of_registered(row) for row in added}
        click.echo(json.dumps(found, indent=2))
    elif wanted and listed:
        _print_details(listed[0], tags)
    else:
        _print_table(listed, added, tags)


def _of_family(row: Family, tags: Mapping[str, list[str]]) -> Row:
    return {
        "architecture": row.architecture,
        "example_id": _shown(row.example_id, row.name),
        "supported_backends": list(row.backends),
        "installation": row.installation,
        "items": tags.get(row.name, []),
    }


def _of_registered(row: Registered) -> Row:
    return {
        "architecture": "",
        "example_id": _shown(row.source, row.name),
        "supported_backends": _backends(row),
        "installation": _installation(row),
        "items": _items_of(row),
    }


def _items_of(row: Registered) -> list[str]:
    """Return the tag of the model of the store that the name stands for, if it is there."""
    try:
        found = stored_model(parse_ref(row.source), REGISTRY)
    except ConfigurationError:
        return []  # It stands for a name that nobody knows, which `start` tells.
    return [found.tag] if found else []


def _shown(source: str, name: str) -> str:
    """Return where the model `name` comes from; of one on this machine, its name."""
    return name if parse_ref(source).kind == "path" else shown_source(source)


def _backends(row: Registered) -> list[str]:
    """Return the engines of what the name stands for, in the end; [] where its files decide."""
    ref = parse_ref(row.source)
    if backend := row.defaults.get("backend") or defaults_of(ref, REGISTRY).get("backend"):
        return [str(backend)]
    if family := family_of(ref, REGISTRY):
        return list(family.backends)
    try:
        meant = expand(ref, REGISTRY)
    except ConfigurationError:
        return []
    return ["llamacpp"] if meant.file or meant.source.endswith(".gguf") else []


def _installation(row: Registered) -> str:
    """Return the command for the family it stands for, or for its engine."""
    from openllm.engines import engine_kind, engine_name

    if family := family_of(parse_ref(row.source), REGISTRY):
        return family.installation
    names = _backends(row)
    try:
        packages = [engine_kind(engine_name(name)).install for name in names]
    except ConfigurationError:
        packages = []  # An engine that is not installed here, whose package nobody names.
    return f"pip install {shlex.quote(packages[0] if packages else 'open-llm-server')}"


def _is_called(row: Family, name: str) -> bool:
    return plain(name) in map(plain, (row.name, *row.aliases))


def _unknown(name: str) -> str:
    import difflib

    known = known_names(REGISTRY)
    close = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
    return f"no such family {name!r}; {hint}"


def _print_details(row: Family, tags: Mapping[str, list[str]]) -> None:
    for key, value in _of_family(row, tags).items():
        text = _GAP.join(map(str, value)) if isinstance(value, list) else str(value)
        click.echo(f"{key + ':':<20}{text or '-'}")
    click.echo("names:")
    name = row.name.replace("_", "-")
    sources = {name: row.source}
    sources |= {f"{name}:{size}": source for size, source in row.models.items()}
    width = max(map(len, sources))
    for each, source in sources.items():
        click.echo(f"  {each:<{width}}  {_shown(source, each)}")
    if row.defaults:
        click.echo("defaults:")
        for field, value in row.defaults.items():
            click.echo(f"  {field} = {value}")


def _print_table(
    listed: Sequence[Family], added: Sequence[Registered], tags: Mapping[str, list[str]]
) -> None:
    rows = [("NAME", "BACKENDS", "STORED", "SIZES")]
    rows += (_added_row(row) for row in added)
    rows += (_table_row(family, tags) for family in listed)
    width = max(shutil.get_terminal_size().columns, _NARROW)
    for line in aligned(rows).splitlines():
        click.echo(line if len(line) <= width else line[: width - 3] + "...")


def _added_row(row: Registered) -> tuple[str, str, str, str]:
    count = str(len(_items_of(row)) or "")
    return row.name, ",".join(_backends(row)), count, _shown(row.source, row.name)


def _table_row(row: Family, tags: Mapping[str, list[str]]) -> tuple[str, str, str, str]:
    stored_models = len(tags.get(row.name, []))
    sizes = " ".join(row.sizes) or _shown(row.model_id, row.name)
    name = row.name.replace("_", "-")
    return name, ",".join(row.backends), str(stored_models or ""), sizes
