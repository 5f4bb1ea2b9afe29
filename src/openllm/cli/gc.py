"""`openllm gc`: make room in the store."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import click

from openllm.cli.store_flag import store_flag

if TYPE_CHECKING:
    from openllm.models.store import Collected

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?", re.IGNORECASE | re.ASCII)
_POWERS = "kmgtp"


def _bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read "50GB", "50 GiB" or a number of bytes."""
    if value is None:
        return None
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is not a size; write it like 50GB, 500MB or 40GiB")
    number, power, binary = match.groups()
    base = 1024 if binary else 1000
    return int(float(number) * base ** (_POWERS.find(power.lower()) + 1 if power else 0))


@click.command("gc")
@click.option(
    "--quota",
    callback=_bytes,
    metavar="SIZE",
    help="Remove the models not used for longest until the rest fits, e.g. 50GB.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@store_flag
def gc(quota: int | None, dry_run: bool) -> None:
    """Remove what interrupted downloads left, and keep the store to a quota.

    An interrupted download can be taken up again for a day; then it is removed. A model is never
    removed while a server uses it, or if it did not come from a hub or an URL. The exit status is
    1 if what must stay is more than the quota.
    """
    from openllm.cli.store_table import one_line_errors
    from openllm.models.store import collect

    with one_line_errors():
        collected = collect(quota=quota, dry_run=dry_run)
    for line in _lines(collected, dry_run):
        click.echo(line)
    if quota is not None and collected.used > quota:
        click.echo(f"Error: {_too_much(collected.used, quota)}", err=True)
        sys.exit(1)


def _lines(collected: Collected, dry_run: bool) -> list[str]:
    from openllm.cli.store_table import age_text
    from openllm.sizes import size_text

    removed, freed = ("Would remove", "Would free") if dry_run else ("Removed", "Freed")
    return [
        *(f"{removed} {model.tag}, used {age_text(model.used)}" for model in collected.models),
        *(f"{removed} {folder}" for folder in collected.folders),
        f"{freed} {size_text(collected.freed)}; models occupy {size_text(collected.used)}.",
    ]


def _too_much(used: int, quota: int) -> str:
    from openllm.sizes import size_text

    return (
        f"the models that are in use or could not be downloaded again occupy {size_text(used)},"
        f" more than --quota {size_text(quota)}; remove some with `openllm rm`."
    )
