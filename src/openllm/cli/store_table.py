"""What the commands on stored models share: finding them by what was typed, and showing them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openllm.models.store import DamagedModel, StoredModel

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
    from openllm.models.ref import shown_source

    names = ("tag", "format", "size", "source", "revision", "refs", "file", "path")
    return {
        **{name: getattr(model, name) for name in names},
        "source": shown_source(model.source),
        "refs": tuple(map(shown_source, model.refs)),
        "created": model.created,
        "used": model.used,
    }


def damaged_facts(model: DamagedModel) -> dict[str, Any]:
    """Return what `--json` says of a model without a record: what is known, and the reason."""
    names = ("format", "source", "revision", "refs", "file", "created", "used")
    return {
        "tag": model.tag,
        "size": model.size,
        "path": model.folder,
        **dict.fromkeys(names),
        "damaged": model.reason,
    }


def state_text(model: StoredModel | DamagedModel) -> str:
    """Write when a model was used, or that its record is damaged."""
    from openllm.models.store import DamagedModel

    if isinstance(model, DamagedModel):
        return f"damaged: {model.reason}"
    return f"used {age_text(model.used)}"


def find_each(texts: Sequence[str], *, exactly: bool = False) -> list[StoredModel | DamagedModel]:
    """Return the model that each text means; all are checked before the first is returned.

    A text is a tag, or what `openllm pull` takes. With `exactly` a name of several versions is a
    mistake, where the newest would be a guess.

    Raises:
        ConfigurationError: The store cannot be used.
        ModelNotFoundError: A text means no model, or several; names those that are near.
    """
    from openllm.errors import ModelNotFoundError
    from openllm.models.store import check_place, damaged, stored

    check_place()
    models: list[StoredModel | DamagedModel] = [*stored(), *damaged()]
    chosen, mistakes = {}, []
    for text in texts:
        found = _find(text, models, exactly)
        if isinstance(found, str):
            mistakes.append(found)
        else:
            chosen[found.tag] = found
    if mistakes:
        raise ModelNotFoundError("\n".join(mistakes))
    return list(chosen.values())


def _find(
    text: str, models: Sequence[StoredModel | DamagedModel], exactly: bool
) -> StoredModel | DamagedModel | str:
    """Return the model, or what is wrong with the text."""
    from openllm.models.store import find_tag

    same_name = [model.tag for model in models if model.name == text]
    if exactly and len(same_name) > 1:
        return f"{text!r} has {len(same_name)} versions; name one: {', '.join(same_name)}"
    found = find_tag(text) or next((each for each in models if text in (each.tag, each.name)), None)
    if found is not None:
        return found
    from openllm.models.store_names import meant_by

    meant = meant_by(text)
    if len(meant) > 1:
        tags = ", ".join(model.tag for model in meant)
        return f"{text!r} means {len(meant)} stored models; name one: {tags}"
    hint = _hint(text, [model.tag for model in models])
    return meant[0] if meant else f"There is no model {text!r} in the store; {hint}"


def _hint(tag: str, tags: Sequence[str]) -> str:
    import difflib

    if not tags:
        return "it is empty."
    parts = [each for each in tags if tag and tag.lower().partition(":")[0] in each]
    names = {each.partition(":")[0]: each for each in tags}
    near = difflib.get_close_matches(tag.partition(":")[0], names, n=3, cutoff=0.5)
    close = list(dict.fromkeys([*parts[:3], *(names[name] for name in near)]))
    if not close:
        return "`openllm list` shows what there is."
    return f"did you mean {' or '.join(close)}?"
