"""`openllm list`: the models in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from openllm.cli.store_flag import store_flag

if TYPE_CHECKING:
    from openllm.models.store import StoredModel

_TITLES = ("TAG", "FORMAT", "SIZE", "USED", "SOURCE")


@click.command("list")
@click.option("--json", "json", is_flag=True, help="Write JSON; sizes are bytes.")
@store_flag
def list_models(json: bool) -> None:
    """List the models in the store, which is BentoML's: BENTOML_HOME, or ~/bentoml.

    \b
      openllm list
      openllm list --json | jq -r '.[].tag'
    """
    from openllm.cli.store_table import aligned, as_json, facts, one_line_errors
    from openllm.models.store import stored

    with one_line_errors():
        models = stored()
    if json:
        click.echo(as_json([facts(model) for model in models]))
    elif models:
        click.echo(aligned([_TITLES, *map(_row, models)]))
    else:
        click.echo("No model is stored yet; `openllm pull NAME` downloads one.", err=True)


def _row(model: StoredModel) -> tuple[str, ...]:
    from openllm.cli.store_table import age_text
    from openllm.sizes import size_text

    source = f"{model.source}:{model.file}" if model.file and model.revision else model.source
    return model.tag, model.format, size_text(model.size), age_text(model.used), source or "-"
