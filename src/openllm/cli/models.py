"""`openllm models`: the families of models known by name, and which of them are in the store."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence

import click

from openllm.models.families import Family, families
from openllm.models.locate import known_names
from openllm.models.membership import items
from openllm.models.ref import parse_ref
from openllm.models.registry import REGISTRY, Registered
from openllm.models.store import stored

_GAP = "  "
_NARROW = 40

Row = dict[str, object]


@click.command()
@click.argument("family", required=False)
@click.option("--family", "chosen", metavar="NAME", help="Show this family only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as it is when piped.")
def models(family: str | None, chosen: str | None, as_json: bool) -> None:
    """List the families of models known by name, with what of them is in the store.

    Each name can be served: `openllm start qwen3:0.6b`. Piped, the list is JSON.
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
        "example_id": row.example_id,
        "supported_backends": list(row.supported_backends),
        "installation": row.installation,
        "items": tags.get(row.name, []),
    }


def _of_registered(row: Registered) -> Row:
    return {
        "architecture": "",
        "example_id": _origin(row),
        "supported_backends": _backends(row),
        "installation": "pip install open-llm-server",
        "items": [],
    }


def _origin(row: Registered) -> str:
    """Return where a registered model comes from; of one on this machine, its name."""
    ref = parse_ref(row.source)
    return row.name if ref.kind == "path" else row.source


def _backends(row: Registered) -> list[str]:
    if backend := row.defaults.get("backend"):
        return [str(backend)]
    return ["llamacpp"] if row.source.endswith(".gguf") else []


def _is_called(row: Family, name: str) -> bool:
    plain = name.lower().replace("-", "_")
    return plain in (each.lower().replace("-", "_") for each in (row.name, *row.aliases))


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
    sources |= {f"{name}:{size}": source for size, source in row.sizes.items()}
    width = max(map(len, sources))
    for each, source in sources.items():
        click.echo(f"  {each:<{width}}  {source}")


def _print_table(
    listed: Sequence[Family], added: Sequence[Registered], tags: Mapping[str, list[str]]
) -> None:
    rows = [("NAME", "BACKENDS", "STORED", "SIZES")]
    rows += ((row.name, ",".join(_backends(row)), "", _origin(row)) for row in added)
    rows += (_table_row(family, tags) for family in listed)
    for line in _aligned(rows, shutil.get_terminal_size().columns):
        click.echo(line)


def _table_row(row: Family, tags: Mapping[str, list[str]]) -> tuple[str, str, str, str]:
    stored_models = len(tags.get(row.name, []))
    sizes = " ".join(row.sizes) or row.model_id
    name = row.name.replace("_", "-")
    return name, ",".join(row.supported_backends), str(stored_models or ""), sizes


def _aligned(rows: Sequence[tuple[str, ...]], width: int) -> Iterator[str]:
    """Yield lines with their columns below each other, cut to `width` characters."""
    columns = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(length) for cell, length in zip(row, columns, strict=True))
        line = _GAP.join(cells).rstrip()
        yield line if len(line) <= max(width, _NARROW) else line[: max(width, _NARROW) - 3] + "..."
