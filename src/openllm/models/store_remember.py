"""Changing what is recorded of a stored model: its use, and the names its source has for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from openllm.errors import ConfigurationError
from openllm.models import store_find
from openllm.models.store_lock import changing
from openllm.models.store_model import RECORD, StoredModel
from openllm.models.store_record import read, write


def touch(model: StoredModel) -> None:
    """Record that the model was used now; a store that cannot be written is left as it is."""
    with suppress(OSError):
        os.utime(os.path.join(model.folder, RECORD))


def rewrite(model: StoredModel, change: Callable[[StoredModel], StoredModel]) -> StoredModel:
    """Replace what is recorded of a model, if the store can be written; its use stays as it was.

    Args:
        model: As it was read.
        change: Takes it as it is recorded now, as another process may have changed it meanwhile.

    Returns:
        What is recorded; or else what would have been.
    """
    with suppress(OSError, ConfigurationError), changing():
        recorded = read(Path(model.folder)) or model
        changed = change(recorded)
        if changed != recorded:
            write(changed, Path(model.folder))
            os.utime(os.path.join(model.folder, RECORD), times=(changed.used.timestamp(),) * 2)
        return changed
    return change(model)


def remember(model: StoredModel, refs: Iterable[str]) -> StoredModel:
    """Record that `refs` mean this model, and no longer another one of the same name.

    Of a URL it is recorded of the models of other URLs, whose content is the same.
    """
    if not (asked := set(refs)):
        return model

    def without(other: StoredModel) -> StoredModel:
        return replace(other, refs=tuple(ref for ref in other.refs if ref not in asked))

    def named(now: StoredModel) -> StoredModel:
        return replace(now, refs=tuple(sorted(asked.difference([now.source]).union(now.refs))))

    for other in store_find.versions(model.name):
        if other.version != model.version and asked.intersection(other.refs):
            rewrite(other, without)
    return model if named(model) == model else rewrite(model, named)
