"""Making room: what interrupted downloads left, and the models that were not used for longest."""

from __future__ import annotations

import os
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec

from openllm.models import store_find, store_staging
from openllm.models.store_change import delete, orphans, remove_unused
from openllm.models.store_damaged import DamagedModel
from openllm.models.store_find import stored
from openllm.models.store_folders import freed, last_change
from openllm.models.store_lock import unused
from openllm.models.store_model import StoredModel
from openllm.models.store_staging import Leftover

STAGING_SECONDS = 24 * 60 * 60
"""How long an interrupted download can be taken up again."""

SETTLED_SECONDS = 60
"""How long what has no record, or is of no begun download, is left alone after its last change."""


class Collected(msgspec.Struct, frozen=True):
    """What was removed, or would be, and what can be.

    Attributes:
        models: Removed models.
        folders: Removed folders of interrupted work.
        freed: Bytes of both.
        used: Bytes of the models that are left; more than the quota where the rest is in use or
            could not be downloaded again.
        interrupted: Downloads that nobody works on and that were left to be gone on with.
        damaged: Models without a record that were left.
    """

    models: tuple[StoredModel | DamagedModel, ...]
    folders: tuple[str, ...]
    freed: int
    used: int
    interrupted: tuple[Leftover, ...] = ()
    damaged: tuple[DamagedModel, ...] = ()


def collect(
    *,
    quota: int | None = None,
    dry_run: bool = False,
    interrupted: bool = False,
    damaged: bool = False,
) -> Collected:
    """Remove what nobody needs, then least recently used models until `quota` bytes suffice.

    Downloads are left alone for a day after their last byte, or with `interrupted` only while a
    process works on them; what was read to look at a model that was then not downloaded, for a
    minute. Models whose record is damaged go with `damaged` alone, as nobody knows where they came
    from. A model is never removed if a process holds it, this one too, or if it did not come from a
    hub or an URL. None is for a quota below 0, which nothing can reach.

    Raises:
        ConfigurationError: The store cannot be used.
    """
    stagings = list(store_staging.interrupted())
    kept = () if interrupted else tuple(filter(_may_go_on, stagings))
    left_over = [one for one in stagings if one not in kept]
    half_made = [store_staging.leftover(folder) for folder in orphans()]
    if not dry_run:
        for one in left_over:
            store_staging.sweep(Path(one.folder))
        for one in half_made:
            delete(Path(one.folder))
    swept = [*left_over, *half_made]
    broken, left = _take_damaged(damaged, dry_run)
    models, used = _evict(quota, dry_run)
    return Collected(
        models=(*(model for model, _ in broken), *(model for model, _ in models)),
        folders=tuple(one.folder for one in swept),
        freed=sum(one.size for one in swept) + sum(size for _, size in (*broken, *models)),
        used=used,
        interrupted=kept,
        damaged=left,
    )


def _may_go_on(one: Leftover) -> bool:
    """Whether the download is kept for now; a moment if it was not begun, as a look precedes it."""
    wanted = store_staging.begun(Path(one.folder))
    kept = timedelta(seconds=STAGING_SECONDS if wanted else SETTLED_SECONDS)
    return one.changed >= datetime.now(timezone.utc) - kept


def _take_damaged(
    wanted: bool, dry_run: bool
) -> tuple[list[tuple[DamagedModel, int]], tuple[DamagedModel, ...]]:
    """Remove models without a record if that is `wanted`; returns them with bytes, and the rest.

    One that changed a moment ago stays: another program may be writing it.
    """
    gone: list[tuple[DamagedModel, int]] = []
    left: list[DamagedModel] = []
    settled = time.time() - SETTLED_SECONDS
    for model in store_find.damaged():
        folder = Path(model.folder)
        size = freed(folder)
        if wanted and last_change(folder) < settled and _gone(model, dry_run):
            gone.append((model, size))
        else:
            left.append(model)
    return gone, tuple(left)


def _evict(quota: int | None, dry_run: bool) -> tuple[list[tuple[StoredModel, int]], int]:
    """Remove models beyond the quota; returns them with the bytes each freed, and what is left."""
    models = sorted(stored(), key=lambda model: model.used)
    links: Counter[tuple[int, int]] = Counter()
    for model in models:
        links.update(_inodes(model).keys())
    used = sum({key: size for model in models for key, size in _inodes(model).items()}.values())
    gone: list[tuple[StoredModel, int]] = []
    for model in models:
        if quota is None or quota < 0 or used <= quota:
            break
        inodes = _inodes(model)
        if not _fetchable(model) or not _gone(model, dry_run):
            continue
        links.subtract(inodes.keys())
        size = sum(size for key, size in inodes.items() if not links[key])
        gone.append((model, size))
        used -= size
    return gone, used


def _gone(model: StoredModel | DamagedModel, dry_run: bool) -> bool:
    if not dry_run:
        return remove_unused(model)
    with unused(Path(model.folder)) as free:
        return free


def _fetchable(model: StoredModel) -> bool:
    return bool(model.source) and not os.path.isabs(model.source)


def _inodes(model: StoredModel) -> dict[tuple[int, int], int]:
    """Return the bytes of each file on disk: two models that share a file occupy it once."""
    found = {}
    for file in model.files:
        try:
            state = os.stat(os.path.join(model.folder, file.name))
        except OSError:
            continue
        found[state.st_dev, state.st_ino] = state.st_size
    return found
