"""`openllm show`: one stored model, where it is from and which files it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from openllm.cli.once import OnceCommand
from openllm.cli.store_flag import store_flag

if TYPE_CHECKING:
    from openllm.models.store import StoredModel


@click.command("show", cls=OnceCommand)
@click.argument("tag", metavar="MODEL")
@click.option("--json", "json", is_flag=True, help="Write JSON; sizes are bytes.")
@store_flag
def show(tag: str, json: bool) -> None:
    """Show a model of the store with its files and their hashes.

    MODEL is a tag, NAME:VERSION as `openllm list` writes it, or NAME for its newest version; or a
    family, a hub id or a URL as `openllm pull` takes it.
    """
    from openllm.cli.store_table import aligned, as_json, facts, find_each
    from openllm.errors import OpenLLMError
    from openllm.models.store import DamagedModel

    (model,) = find_each([tag])
    if isinstance(model, DamagedModel):
        raise OpenLLMError(
            f"The record of {model.tag} is damaged: {model.folder}/{model.reason}; {model.remedy}"
        )
    if json:
        files = [
            {"name": file.name, "size": file.size, "sha256": file.sha256 or None}
            for file in model.files
        ]
        click.echo(as_json({**facts(model), "files": files}))
        return
    click.echo(aligned(_facts(model)))
    click.echo(f"\n{aligned(_files(model))}")


def _facts(model: StoredModel) -> Iterator[tuple[str, str]]:
    from openllm.cli.store_table import age_text
    from openllm.models.ref import shown_source
    from openllm.sizes import size_text

    yield "tag", model.tag
    yield "format", model.format
    yield "size", f"{size_text(model.size)} ({model.size} bytes)"
    yield "source", shown_source(model.source) or "unknown: BentoML stored it"
    if model.revision:
        yield "revision", " ".join((model.revision, *(f"({ref})" for ref in model.refs)))
    if model.file:
        yield "file", model.file
    yield "path", model.path
    yield "stored", f"{model.created:%Y-%m-%d %H:%M:%S} UTC, {age_text(model.created)}"
    yield "used", f"{model.used:%Y-%m-%d %H:%M:%S} UTC, {age_text(model.used)}"


def _files(model: StoredModel) -> Iterator[tuple[str, str, str]]:
    from openllm.sizes import size_text

    yield "FILE", "SIZE", "SHA256"
    for file in model.files:
        yield file.name, size_text(file.size), file.sha256 or "-"
