"""`openllm list`: the models in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from openllm.cli.once import OnceCommand
from openllm.cli.store_flag import store_flag

if TYPE_CHECKING:
    from openllm.models.store import DamagedModel, StoredModel

_TITLES = ("TAG", "FORMAT", "SIZE", "USED", "SOURCE")


@click.command("list", cls=OnceCommand)
@click.option("--json", "json", is_flag=True, help="Write JSON; sizes are bytes.")
@store_flag
def list_models(json: bool) -> None:
    """List the models in the store, which is BentoML's: BENTOML_HOME, or ~/bentoml.

    A model whose record cannot be read is marked as damaged; `openllm rm TAG` removes it, and a
    download of the same replaces it.

    \b
      openllm list
      openllm list --json | jq -r '.[].tag'
    """
    from openllm.cli.store_table import aligned, as_json, damaged_facts, facts
    from openllm.models.store import check_place, damaged, stored

    check_place()
    models, broken = stored(), damaged()
    if json:
        click.echo(as_json([*map(facts, models), *map(damaged_facts, broken)]))
    elif rows := [*map(_row, models), *map(_damaged_row, broken)]:
        click.echo(aligned([_TITLES, *sorted(rows)]))
    else:
        click.echo("No model is stored yet; `openllm pull NAME` downloads one.", err=True)


def _row(model: StoredModel) -> tuple[str, ...]:
    from openllm.cli.store_table import age_text
    from openllm.models.ref import shown_source
    from openllm.sizes import size_text

    source = shown_source(model.source)
    source += f":{model.file}" if model.file and model.revision else ""
    return model.tag, model.format, size_text(model.size), age_text(model.used), source or "-"


def _damaged_row(model: DamagedModel) -> tuple[str, ...]:
    from openllm.sizes import size_text

    return model.tag, "damaged", size_text(model.size), "-", model.reason
