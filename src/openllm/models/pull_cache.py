"""Files that huggingface_hub's own cache has already: linked into a download, not fetched again.

They are called there by the hash that the hub announces, and are hashed before they are taken, as
what an interrupted download has left.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from openllm.models.transfer import part_of

if TYPE_CHECKING:
    from openllm.models.hub import RemoteFile


def link_cached(source: str, files: Sequence[RemoteFile], folder: Path) -> None:
    """Link into `folder` what the cache has of the hub's model `source`, if it is on one disk."""
    from huggingface_hub import constants

    blobs = Path(constants.HF_HUB_CACHE) / f"models--{source.replace('/', '--')}" / "blobs"
    if not os.path.isdir(blobs):
        return
    for remote in files:
        blob, part = remote.sha256 or remote.blob, part_of(folder, remote)
        if not blob or (folder / remote.name).exists() or part.exists():
            continue
        cached = Path(os.path.realpath(blobs / blob))
        with suppress(OSError):
            # Of another length it would be written to, and that is the cache's own file.
            if cached.stat().st_size == remote.size and os.access(cached, os.R_OK | os.W_OK):
                os.link(cached, part)
