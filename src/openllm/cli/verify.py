"""`openllm verify`: every byte of stored models against the recorded hashes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from openllm.cli.ending import FAILED
from openllm.cli.once import OnceCommand
from openllm.cli.store_flag import store_flag

if TYPE_CHECKING:
    from openllm.models.store import DamagedModel, StoredModel


@click.command("verify", cls=OnceCommand)
@click.argument("tags", nargs=-1, metavar="[MODEL...]")
@store_flag
def verify(tags: tuple[str, ...]) -> None:
    """Check the files of stored models by their hashes; without MODEL of all models.

    MODEL is a tag, NAME:VERSION as `openllm list` writes it, or NAME for its newest version; or a
    family, a hub id or a URL as `openllm pull` takes it. The exit status is 1 if a file or a
    record is damaged; what was expected and found is said, and the fix.
    """
    from openllm.cli.store_table import find_each
    from openllm.models.store import check_place, damaged, stored

    check_place()
    models: list[StoredModel | DamagedModel] = [*stored(), *damaged()]
    sound = [_is_sound(model) for model in (find_each(tags) if tags else models)]
    sys.exit(0 if all(sound) else FAILED)


def _is_sound(model: StoredModel | DamagedModel) -> bool:
    from openllm.models import store
    from openllm.sizes import size_text

    if isinstance(model, store.DamagedModel):
        click.echo(f"{model.tag}: damaged: {model.reason}")
        click.echo(f"  fix: {model.remedy}")
        return False
    if not model.hashed:
        click.echo(f"{model.tag}: not checked, no hashes were recorded when it was stored")
        return True
    damages = store.verify(model.tag)
    if not damages:
        count = f"{len(model.files)} file{'s' if len(model.files) > 1 else ''}"
        click.echo(f"{model.tag}: ok, {count}, {size_text(model.size)}")
        return True
    click.echo(f"{model.tag}: damaged")
    for damage in damages:
        click.echo(f"  {damage.file}: expected {damage.expected}, found {damage.found}")
    click.echo(f"  fix: {store.remedy(model)}")
    return False
