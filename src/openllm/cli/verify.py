"""`openllm verify`: every byte of stored models against the recorded hashes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from openllm.cli.store_flag import store_flag

if TYPE_CHECKING:
    from openllm.models.store import StoredModel


@click.command("verify")
@click.argument("tags", nargs=-1, metavar="[TAG...]")
@store_flag
def verify(tags: tuple[str, ...]) -> None:
    """Check the files of stored models by their hashes; without TAG of all models.

    The exit status is 1 if a file is damaged; what was expected and found is said, and the fix.
    """
    from openllm.cli.store_table import find_each, one_line_errors
    from openllm.models.store import stored

    with one_line_errors():
        models = find_each(tags) if tags else stored()
        sound = [_is_sound(model) for model in models]
    sys.exit(0 if all(sound) else 1)


def _is_sound(model: StoredModel) -> bool:
    from openllm.models import store
    from openllm.sizes import size_text

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
    click.echo(f"  fix: {_fix(model)}")
    return False


def _fix(model: StoredModel) -> str:
    """Return what to do: a download of the same again, or the files from where they were."""
    from shlex import quote

    remove = f"openllm rm --yes {model.tag}"
    if model.revision:
        file = f":{model.file}" if model.file else ""
        return f"{remove} && openllm pull {quote(f'{model.source}@{model.revision}{file}')}"
    if "://" in model.source:
        return f"{remove} && openllm pull {quote(model.source)}"
    return f"{remove}, then store it again from {model.source or 'where it came from'}"
