"""Making room: what interrupted downloads left, and the models that were not used for longest."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path

import msgspec

from openllm.models import store_find
from openllm.models.store_change import delete, orphans, remove_unused
from openllm.models.store_damaged import DamagedModel
from openllm.models.store_find import stored
from openllm.models.store_folders import freed, last_change
from openllm.models.store_lock import own_folder, told, unused
from openllm.models.store_record import StoredModel

STAGING_SECONDS = 24 * 60 * 60
"""How long an interrupted download can be taken up again."""

PROMISED = ".promised"
"""The file in a download's folder that says what it has of the quota, in bytes."""

SETTLED_SECONDS = 60
"""How long a folder without a record is left alone after its last change."""

_READABLE = 80
_DIGITS = 16


class Leftover(msgspec.Struct, frozen=True):
    """A folder of interrupted work, the bytes that removing it frees, and its last change."""

    folder: str
    size: int
    changed: datetime


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


def staging(source: str, commit: str, file: str = "") -> Path:
    """Return the folder to download one model into, made if need be, readable by its owner only.

    It is the same for every process until the download is done; `lock_of` guards it.

    Raises:
        ConfigurationError: The store cannot be written.
    """
    readable = re.sub(r"[^a-z0-9._-]+", "-", f"{source}-{file}".lower()).strip("-.")[:_READABLE]
    digits = sha256("\0".join((source, commit, file)).encode()).hexdigest()[:_DIGITS]
    downloads = _downloads()
    path = downloads / f"{readable}-{digits}"
    with told(path):
        downloads.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    return path


def lock_of(folder: Path) -> Path:
    """Return the file whose lock (`flock`) says that a process downloads into `folder`."""
    return folder.with_name(f"{folder.name}.lock")


def promised(beside: Path) -> int:
    """Return what downloads that are under way have of the quota, but for the one at `beside`."""
    total = 0
    for file in _downloads().glob(f"*/{PROMISED}"):
        if file.parent == beside or _abandoned(file.parent):
            continue
        with suppress(OSError, ValueError):  # It has just ended.
            total += int(file.read_text("ascii"))
    return total


def collect(
    *,
    quota: int | None = None,
    dry_run: bool = False,
    interrupted: bool = False,
    damaged: bool = False,
) -> Collected:
    """Remove what nobody needs, then least recently used models until `quota` bytes suffice.

    Downloads are left alone for a day after their last byte, or with `interrupted` only while a
    process works on them. Models whose record is damaged go with `damaged` alone, as nobody knows
    where they came from. A model is never removed if a process holds it, this one too, or if it did
    not come from a hub or an URL. None is for a quota below 0, which nothing can reach.

    Raises:
        ConfigurationError: The store cannot be used.
    """
    stagings = list(_interrupted())
    oldest = datetime.now(timezone.utc) - timedelta(seconds=STAGING_SECONDS)
    kept = () if interrupted else tuple(one for one in stagings if one.changed >= oldest)
    swept = [*(one for one in stagings if one not in kept), *map(_leftover, orphans())]
    if not dry_run:
        for one in swept:
            _sweep(Path(one.folder))
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


def _interrupted() -> Iterator[Leftover]:
    """Yield the downloads that no process works on."""
    downloads = _downloads()
    if not downloads.is_dir():
        return
    for path in sorted(downloads.iterdir()):
        if path.is_dir() and _abandoned(path):
            yield _leftover(path)


def _leftover(folder: Path) -> Leftover:
    changed = datetime.fromtimestamp(last_change(folder), timezone.utc)
    return Leftover(str(folder), freed(folder), changed)


def _abandoned(folder: Path) -> bool:
    if not lock_of(folder).exists():
        return True
    with unused(lock_of(folder)) as free:
        return free


def _sweep(folder: Path) -> None:
    """Remove a folder, unless a process has just begun to work in it."""
    if not lock_of(folder).exists():
        delete(folder)
        return
    with unused(lock_of(folder)) as free:
        if free:
            delete(folder)
            lock_of(folder).unlink(missing_ok=True)


def _downloads() -> Path:
    return own_folder() / "downloads"
