"""What installed packages bring by entry points: models and families under names of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import RLock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

logger = logging.getLogger("openllm.models")

LOCK = RLock()
"""For the registered models and the families alike: a package may add both while it is read."""


def read_group(group: str, take: Callable[[EntryPoint, object], None]) -> None:
    """Hand each entry point of `group`, with what it names, to `take`.

    One that cannot be loaded or taken is a warning that names it, and the others are read.
    """
    from importlib.metadata import entry_points

    for point in entry_points(group=group):
        _read(point, take)


def _read(point: EntryPoint, take: Callable[[EntryPoint, object], None]) -> None:
    try:
        take(point, point.load())
    except Exception as error:
        package = point.dist.name if point.dist else "a package"
        reason = f"{type(error).__name__}: {error}"
        logger.warning(
            "the entry point %r of %s (%s) in %s is left out: %s",
            *(point.name, package, point.value, point.group, reason),
        )
