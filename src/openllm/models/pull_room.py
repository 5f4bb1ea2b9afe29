"""Room for a download: on the disk, and within the quota of the store."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from openllm.errors import ModelFetchError
from openllm.models import store
from openllm.models.store_folders import held
from openllm.sizes import size_text

if TYPE_CHECKING:
    from openllm.models.pull_plan import Plan

SPARE = 16 << 20
"""Bytes that stay free on the disk."""
_STEP = 16 << 20
"""Bytes of a file of unknown length after which the room is looked at again."""


class Room:
    """What one download may still take."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._next = _STEP
        self._lock = threading.Lock()

    def check(self, total: int) -> None:
        """Make room within the quota for a model of `total` bytes.

        Raises:
            ModelFetchError: There is none, on the disk or within the quota.
        """
        quota = self._plan.options.store_quota
        if quota is not None:
            self._make_room(total, quota)
        self.check_disk(total)

    def check_disk(self, total: int) -> None:
        """Raise `ModelFetchError` if the disk has no room for a model of `total` bytes."""
        source, folder = self._plan.remote.shown, self._folder
        need = max(total - arrived(folder), 0) + SPARE
        free = shutil.disk_usage(folder).free
        if need > free:
            raise ModelFetchError(
                f"{source} needs {size_text(need - SPARE)} more, and {folder.parent} has"
                f" {size_text(free)} free, of which {size_text(SPARE)} are to stay so; make room"
                " (`openllm gc`, `openllm rm`) or set BENTOML_HOME to another disk"
            )

    def _make_room(self, total: int, quota: int) -> None:
        promise = self._folder / store.PROMISED
        with store.dividing():
            promise.unlink(missing_ok=True)
            others = store.promised(self._folder)
            for dry_run in (True, False):  # Nothing is removed for what will not fit all the same.
                used = store.collect(quota=quota - others - total, dry_run=dry_run).used + others
                if used + total > quota:
                    raise ModelFetchError(
                        f"{self._plan.remote.shown} needs {size_text(total)}; the quota of"
                        f" {size_text(quota)} has {size_text(max(quota - used, 0))} left beside"
                        " models that are in use, being downloaded, or wanted by the same command:"
                        " raise --store-quota"
                    )
            promise.write_text(str(total), "ascii")

    def check_growth(self, done: int) -> None:
        """Check again now that there are `done` bytes of a file whose length was not told."""
        if done < self._next:
            return
        with self._lock:
            self._next = done + _STEP
        self.check(self._plan.known + done + _STEP)


def arrived(folder: Path) -> int:
    """Return the bytes of a model that are here already."""
    return held(folder, but=store.PROMISED)
