"""What the commands on stored models share: finding them by what was typed, and showing them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from openllm.models.store import StoredModel

_AGES = ((86400 * 7, "week"), (86400, "day"), (3600, "hour"), (60, "minute"))


def age_text(moment: datetime) -> str:
    """Write how long ago a moment was: "3 days ago"."""
    seconds = (datetime.now(timezone.utc) - moment).total_seconds()
    for length, name in _AGES:
        if (count := int(seconds // length)) > 0:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Return the rows as lines with aligned columns."""
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = (
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        for row in table
    )
    return "\n".join(line.rstrip() for line in lines)


def as_json(value: object) -> str:
    """Return JSON with indentation."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value)).decode()


def facts(model: StoredModel) -> dict[str, Any]:
    """Return what `--json` says of a model; sizes are bytes, times ISO 8601."""
    names = ("tag", "format", "size", "source", "revision", "refs", "file", "path")
    return {
        **{name: getattr(model, name) for name in names},
        "created": model.created,
        "used": model.used,
    }


def find_each(tags: Sequence[str], *, exactly: bool = False) -> list[StoredModel]:
    """Return the model for each tag; every tag is checked before the first model is returned.

    Raises:
        ModelNotFoundError: A tag is unknown; names those that are near. With `exactly` also for
            a name of several versions, where the newest would be a guess.
    """
    from openllm.errors import ModelNotFoundError
    from openllm.models.store import stored

    models = stored()
    chosen, mistakes = {}, []
    for tag in tags:
        found = _find(tag, models, exactly)
        if isinstance(found, str):
            mistakes.append(found)
        else:
            chosen[found.tag] = found
    if mistakes:
        raise ModelNotFoundError("\n".join(mistakes))
    return list(chosen.values())


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the command with a line on standard error and status 1 when it fails."""
    from openllm.errors import OpenLLMError

    try:
        yield
    except OpenLLMError as error:
        click.echo(f"Error: {error.message}", err=True)
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {where}{error.strerror or error}", err=True)
        sys.exit(1)


def _find(tag: str, models: Sequence[StoredModel], exactly: bool) -> StoredModel | str:
    """Return the model, or what is wrong with the tag."""
    from openllm.models.store import find_tag

    same_name = [model.tag for model in models if model.name == tag]
    if exactly and len(same_name) > 1:
        return f"{tag!r} has {len(same_name)} versions; name one: {', '.join(same_name)}"
    return find_tag(tag) or f"There is no model {tag!r} in the store; {_hint(tag, models)}"


def _hint(tag: str, models: Sequence[StoredModel]) -> str:
    import difflib

    if not models:
        return "it is empty."
    tags = [model.tag for model in models]
    parts = [each for each in tags if tag and tag.lower().partition(":")[0] in each]
    names = {each.partition(":")[0]: each for each in tags}
    near = difflib.get_close_matches(tag.partition(":")[0], names, n=3, cutoff=0.5)
    close = list(dict.fromkeys([*parts[:3], *(names[name] for name in near)]))
    if not close:
        return "`openllm list` shows what there is."
    return f"did you mean {' or '.join(close)}?"
