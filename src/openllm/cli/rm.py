"""`openllm rm`: remove models from the store."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from openllm.cli.ending import FAILED
from openllm.cli.once import OnceCommand
from openllm.cli.store_flag import store_flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openllm.models.store import DamagedModel, StoredModel


@click.command("rm", cls=OnceCommand)
@click.argument("tags", nargs=-1, required=True, metavar="MODEL...")
@click.option("-y", "--yes", is_flag=True, help="Remove without asking, on a terminal too.")
@store_flag
def rm(tags: tuple[str, ...], yes: bool) -> None:
    """Remove models from the store, and free their space.

    MODEL is a tag, NAME:VERSION as `openllm list` writes it, or NAME; or a family, a hub id or a
    URL as `openllm pull` takes it. It must mean one stored model. Every MODEL is checked before the
    first is removed. What a running server uses stays.

    \b
      openllm rm org/name:Q8_0
      openllm rm llamacpp-qwen--qwen3-0.6b-gguf--qwen3-0.6b-q8_0
      openllm rm --yes $(openllm list --json | jq -r '.[].tag')
    """
    from openllm.cli.store_table import find_each
    from openllm.models.store import remove_unused
    from openllm.sizes import size_text

    models = find_each(tags, exactly=True)
    if not yes and sys.stdin.isatty() and not _agreed(models):
        click.echo("Nothing was removed.", err=True)
        sys.exit(FAILED)
    sizes = {model.tag: size_text(model.size) for model in models}
    in_use = [model for model in models if not remove_unused(model)]
    for model in models:
        if model not in in_use:
            click.echo(f"Removed {model.tag}, {sizes[model.tag]}")
    for model in in_use:
        click.echo(f"Error: {model.tag} is in use; stop the server that serves it.", err=True)
    sys.exit(FAILED if in_use else 0)


def _agreed(models: Sequence[StoredModel | DamagedModel]) -> bool:
    from openllm.sizes import size_text

    for model in models:
        click.echo(f"{model.tag}, {size_text(model.size)}", err=True)
    count = "this model" if len(models) == 1 else f"these {len(models)} models"
    return click.confirm(f"Remove {count}?", err=True)
