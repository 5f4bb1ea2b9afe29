"""`openllm gc`: make room in the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from openllm.cli.once import OnceCommand
from openllm.cli.store_flag import refusal, setting_flag, store_flag

if TYPE_CHECKING:
    from openllm.models.store import Collected


def _bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    from openllm.sizes import read_size

    try:
        return None if value is None else read_size(value)
    except ValueError as error:
        raise refusal(ctx, param, str(value), error) from None


@click.command("gc", cls=OnceCommand)
@setting_flag(
    "store_quota",
    callback=_bytes,
    metavar="SIZE",
    help="Remove the models not used for longest until the rest fits, e.g. 50GB.",
)
@click.option(
    "--interrupted",
    is_flag=True,
    help="Remove interrupted downloads now; those that a process works on stay.",
)
@click.option(
    "--damaged",
    is_flag=True,
    help="Remove models whose record is damaged, whose source nobody knows any more.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@store_flag
def gc(store_quota: int | None, interrupted: bool, damaged: bool, dry_run: bool) -> None:
    """Remove what interrupted downloads left, and keep the store to a quota.

    An interrupted download can be taken up again for a day; then it is removed. A model is never
    removed while a server uses it, or if it did not come from a hub or an URL. What was left and
    could be removed is listed. The exit status is 1 if what must stay is more than the quota.

    \b
      openllm gc --interrupted
      openllm gc --store-quota 50GB --dry-run
    """
    from openllm.errors import OpenLLMError
    from openllm.models.store import check_place, collect

    check_place()
    collected = collect(
        quota=store_quota, dry_run=dry_run, interrupted=interrupted, damaged=damaged
    )
    for line in _lines(collected, dry_run, damaged):
        click.echo(line)
    if store_quota is not None and collected.used > store_quota:
        raise OpenLLMError(_too_much(collected.used, store_quota))


def _lines(collected: Collected, dry_run: bool, damaged: bool) -> Iterator[str]:
    from openllm.cli.store_table import age_text, state_text
    from openllm.models.store import SETTLED_SECONDS
    from openllm.sizes import size_text

    removed, freed = ("Would remove", "Would free") if dry_run else ("Removed", "Freed")
    for model in collected.models:
        yield f"{removed} {model.tag}, {state_text(model)}"
    for folder in collected.folders:
        yield f"{removed} {folder}"
    yield f"{freed} {size_text(collected.freed)}; models occupy {size_text(collected.used)}."
    for one in filter(lambda one: one.size, collected.interrupted):
        what = f"{size_text(one.size)}, a download interrupted {age_text(one.changed)}"
        yield f"Left {one.folder}, {what}; --interrupted removes it."
    for model in collected.damaged:
        what = f"{size_text(model.size)}, {state_text(model)}"
        advice = (
            "--damaged removes it"
            if not damaged
            else f"a program uses it or has changed it less than {SETTLED_SECONDS} seconds ago, and"
            f" may be writing it; run this again later, or `openllm rm {model.tag}`"
        )
        yield f"Left {model.tag}, {what}; {advice}."


def _too_much(used: int, quota: int) -> str:
    from openllm.sizes import size_text

    return (
        f"the models that are in use or could not be downloaded again occupy {size_text(used)},"
        f" more than --store-quota {size_text(quota)}; remove some with `openllm rm`."
    )
