"""What is left of a model in the store whose record is lost or damaged."""

from __future__ import annotations

from pathlib import Path

import msgspec

from openllm.models.store_folders import held


class DamagedModel(msgspec.Struct, frozen=True):
    """A folder in the place of a model whose record cannot be read any more; `reason` says why.

    Nobody knows where it came from, so that it is never removed without being asked for.
    """

    name: str
    version: str
    folder: str
    reason: str

    @property
    def tag(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def size(self) -> int:
        """Bytes of all files there."""
        return held(Path(self.folder))

    @property
    def remedy(self) -> str:
        """What to do, as a part of a sentence."""
        return f"pull the model again, which takes its place, or openllm rm --yes {self.tag}"
