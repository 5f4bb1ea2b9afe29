"""A program that pulls one model: `python -m tests.unit.models.pull_process NAME ENDPOINT`.

With NO_LOCKS in the environment the kernel's locks do nothing, as on some network file systems.
"""

from __future__ import annotations

import fcntl
import os
import sys

from openllm.config.download import DownloadOptions
from openllm.models.pull import pull
from openllm.models.ref import parse_ref

if __name__ == "__main__":
    if os.environ.get("NO_LOCKS"):
        fcntl.flock = lambda *_: None
    stored = pull(
        parse_ref(sys.argv[1]),
        DownloadOptions(hub_endpoint=sys.argv[2]),
        framework=lambda *_: "pt",
        on_progress=lambda progress: print(progress.phase, progress.done, flush=True),
    )
    print(stored.tag, flush=True)
