"""Files that huggingface_hub's own cache has already: linked into a download, not fetched again.

They are called there by the hash that the hub announces, and are hashed before they are taken, as
what an interrupted download has left.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from openllm.models.transfer import part_of

if TYPE_CHECKING:
    from openllm.models.pull_plan import Plan


def link_cached(plan: Plan, folder: Path) -> None:
    """Link into `folder` what the cache has of a model of the hub, if it is on one disk."""
    from huggingface_hub import constants

    model = plan.remote.source.replace("/", "--")
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{model}" / "blobs"
    if plan.ref.kind != "hub" or not os.path.isdir(blobs):
        return
    for remote in plan.files:
        blob, part = remote.sha256 or remote.blob, part_of(folder, remote)
        if not blob or (folder / remote.name).exists() or part.exists():
            continue
        cached = Path(os.path.realpath(blobs / blob))
        with suppress(OSError):
            # Of another length it would be written to, and that is the cache's own file.
            if cached.stat().st_size == remote.size and os.access(cached, os.R_OK | os.W_OK):
                os.link(cached, part)
