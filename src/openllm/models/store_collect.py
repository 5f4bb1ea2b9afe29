"""Making room: what interrupted downloads left, and the models that were not used for longest."""

from __future__ import annotations

import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from openllm.models.store_change import delete, orphans, remove_unused
from openllm.models.store_find import stored
from openllm.models.store_lock import own_folder, unused
from openllm.models.store_record import StoredModel

STAGING_SECONDS = 24 * 60 * 60
"""How long an interrupted download can be taken up again."""

PROMISED = ".promised"
"""The file in a download's folder that says what it has of the quota, in bytes."""

_READABLE = 80
_DIGITS = 16


class Collected(msgspec.Struct, frozen=True):
    """What was removed, or would be: models, folders of interrupted work, and the bytes of both.

    `used` is what the models that are left occupy; it exceeds the quota where the rest is in use
    or could not be downloaded again.
    """

    models: tuple[StoredModel, ...]
    folders: tuple[str, ...]
    freed: int
    used: int


def staging(source: str, commit: str, file: str = "") -> Path:
    """Return the folder to download one model into, made if need be, readable by its owner only.

    It is the same for every process until the download is done; `lock_of` guards it.
    """
    readable = re.sub(r"[^a-z0-9._-]+", "-", f"{source}-{file}".lower()).strip("-.")[:_READABLE]
    digits = sha256("\0".join((source, commit, file)).encode()).hexdigest()[:_DIGITS]
    downloads = _downloads()
    downloads.mkdir(mode=0o700, exist_ok=True)
    path = downloads / f"{readable}-{digits}"
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


def collect(*, quota: int | None = None, dry_run: bool = False) -> Collected:
    """Remove what nobody needs, then least recently used models until `quota` bytes suffice.

    Downloads are left alone for a day after their last byte. A model is never removed if a
    process holds it, this one too, or if it did not come from a hub or an URL. None is for a quota
    below 0, which nothing can reach.
    """
    folders = [(path, _size(path)) for path in (*_old_stagings(), *orphans())]
    if not dry_run:
        for path, _ in folders:
            _sweep(path)
    models, used = _evict(quota, dry_run)
    return Collected(
        models=tuple(model for model, _ in models),
        folders=tuple(str(path) for path, _ in folders),
        freed=sum(size for _, size in folders) + sum(size for _, size in models),
        used=used,
    )


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
        freed = sum(size for key, size in inodes.items() if not links[key])
        gone.append((model, freed))
        used -= freed
    return gone, used


def _gone(model: StoredModel, dry_run: bool) -> bool:
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


def _old_stagings() -> Iterator[Path]:
    downloads = _downloads()
    if not downloads.is_dir():
        return
    oldest = time.time() - STAGING_SECONDS
    for path in sorted(downloads.iterdir()):
        if path.is_dir() and _last_change(path) < oldest and _abandoned(path):
            yield path


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


def _last_change(folder: Path) -> float:
    return max((state.st_mtime for state in _states(folder)), default=time.time())


def _size(folder: Path) -> int:
    """Return the bytes that removing a folder frees: what the store links to stays."""
    files = (state for state in _states(folder) if stat.S_ISREG(state.st_mode))
    return sum(state.st_size for state in files if state.st_nlink == 1)


def _states(folder: Path) -> Iterator[os.stat_result]:
    """Yield the state of a folder and of all in it; what others remove meanwhile is passed over."""
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names, "."):
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(parent, name))


def _downloads() -> Path:
    return own_folder() / "downloads"
