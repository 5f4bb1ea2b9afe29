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


def look_at_store() -> Sequence[Check]:
    """Say where models are kept, whether more can be added, and what is there."""
    from openllm.models.store import home

    folder = home()
    checks = [_folder(folder)]
    if checks[0].status != "fail":
        checks += [_room(folder), _models()]
    return checks


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists."""
    return next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))


def _folder(folder: Path) -> Check:
    chosen = " (BENTOML_HOME)" if os.environ.get("BENTOML_HOME") else ""
    text = f"{folder}{chosen}"
    there = existing(folder)
    if not there.is_dir():
        return Check("folder", "fail", f"{text}: {there} is a file", f"remove it, {_MOVE}")
    for each in (there, *(there / name for name in ("models", "openllm"))):
        if each.exists() and not os.access(each, os.R_OK | os.W_OK | os.X_OK):
            fix = f"give this user the permission to write there, {_MOVE}"
            return Check("folder", "fail", f"{text}: {each} cannot be written", fix)
    if there != folder:
        text += "; made with the first download"
    return Check("folder", "ok", text)


def _room(folder: Path) -> Check:
    usage = shutil.disk_usage(existing(folder))
    text = f"{size_text(usage.free)} free of {size_text(usage.total)}"
    if usage.free < LITTLE_ROOM:
        fix = f"remove models (openllm list, openllm rm TAG), run openllm gc, {_MOVE}"
        return Check("disk", "fail" if usage.free < LEAST_ROOM else "warn", text, fix)
    return Check("disk", "ok", text)


def _models() -> Check:
    from openllm.models.store import stored

    models = stored()
    if not models:
        return Check("models", "off", "none yet; openllm pull NAME downloads one")
    total = size_text(sum(model.size for model in models))
    return Check("models", "ok", f"{len(models)}, {total} (openllm list)")
