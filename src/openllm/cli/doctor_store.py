"""`openllm doctor` on the store: where it is, whether it can be written, how much room there is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from openllm.cli.doctor_check import Check
from openllm.sizes import size_text

LITTLE_ROOM = 8 << 30
"""With less free than this many models cannot be downloaded."""
LEAST_ROOM = 1 << 28
"""With less free than this none can."""

_MOVE = "or set BENTOML_HOME to a folder on another disk"
_CHOOSE = "set BENTOML_HOME to a folder that this user can write"


def look_at_store(origin: str = "") -> Sequence[Check]:
    """Say where models are kept, whether more can be added, and what is there.

    Args:
        origin: What chose the folder; "" if nothing did.
    """
    from openllm.errors import ConfigurationError
    from openllm.models.store import home

    try:
        folder = home()
    except ConfigurationError as error:
        return (Check("folder", "fail", error.message, _CHOOSE),)
    checks = [_folder(folder, origin)]
    if checks[0].status != "fail":
        checks += [_room(folder), _models()]
    return checks


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists."""
    return next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))


def _folder(folder: Path, origin: str) -> Check:
    from openllm.errors import ConfigurationError
    from openllm.models.store import check_place

    text = f"{folder} ({origin})" if origin else str(folder)
    there = existing(folder)
    if not there.is_dir():
        return Check("folder", "fail", f"{text}: {there} is a file", _CHOOSE)
    for each in (there, *(there / name for name in ("models", "openllm"))):
        if each.exists() and not each.is_dir():
            return Check("folder", "fail", f"{text}: {each} is a file", _CHOOSE)
        if each.exists() and not os.access(each, os.R_OK | os.W_OK | os.X_OK):
            fix = f"give this user the permission to write there, {_MOVE}"
            return Check("folder", "fail", f"{text}: {each} cannot be written", fix)
    if there == folder:
        return Check("folder", "ok", text)
    try:
        check_place()
    except ConfigurationError:
        return Check("folder", "fail", f"{text}: no folder can be made in {there}", _CHOOSE)
    return Check("folder", "ok", f"{text}; made with the first download")


def _room(folder: Path) -> Check:
    usage = shutil.disk_usage(existing(folder))
    text = f"{size_text(usage.free)} free of {size_text(usage.total)}"
    if usage.free < LITTLE_ROOM:
        fix = f"remove models (openllm list, openllm rm TAG), run openllm gc, {_MOVE}"
        return Check("disk", "fail" if usage.free < LEAST_ROOM else "warn", text, fix)
    return Check("disk", "ok", text)


def _models() -> Check:
    from openllm.models.store import damaged, stored

    models = stored()
    if broken := damaged():
        tags = ", ".join(model.tag for model in broken)
        fix = "pull them again, or remove them with openllm rm TAG"
        return Check("models", "warn", f"the record of {len(broken)} is damaged: {tags}", fix)
    if not models:
        return Check("models", "off", "none yet; openllm pull NAME downloads one")
    total = size_text(sum(model.size for model in models))
    return Check("models", "ok", f"{len(models)}, {total} (openllm list)")
