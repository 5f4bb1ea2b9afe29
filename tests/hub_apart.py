"""A hub in a process of its own, for what must not share an interpreter with the server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hub_server import HubServer

ROOT = Path(__file__).parent.parent


@contextmanager
def served_apart(repo: str, size: int) -> Iterator[str]:
    """Serve one repository with a single weights file of `size` bytes; yields the endpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hub_apart", repo, str(size)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield process.stdout.readline().strip() if process.stdout else ""
    finally:
        process.communicate("")  # It serves until its standard input ends.


def main() -> None:
    """Serve, print the endpoint, and end with standard input."""
    with HubServer({sys.argv[1]: {"model.safetensors": os.urandom(int(sys.argv[2]))}}) as hub:
        print(hub.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
