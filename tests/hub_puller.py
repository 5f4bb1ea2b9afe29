"""A process that pulls one model and says how: `python -m tests.hub_puller ORG/NAME [OPTIONS]`.

OPTIONS is JSON, the fields of `DownloadOptions`. Each line on standard output is JSON: a progress
event with its phase, at the end {"tag": ...} or {"error": class, "message": text}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent


class Ended(NamedTuple):
    """How a process ended: its status, the events it wrote, and what is on standard error."""

    status: int
    events: list[dict[str, Any]]
    errors: str

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]


def environment(home: Path, endpoint: str, **more: str) -> dict[str, str]:
    """Return the environment of a process that has a store and a hub of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    mine = {"BENTOML_HOME": str(home), "HF_HOME": str(home / "hf"), "HF_ENDPOINT": endpoint}
    return {**kept, **mine, "PYTHONPATH": str(ROOT), **more}


def start(model: str, environ: dict[str, str], **options: Any) -> subprocess.Popen[str]:
    """Start a process that pulls `model`."""
    return _started(["tests.hub_puller", model, json.dumps(options)], environ)


def start_command(model: str, environ: dict[str, str]) -> subprocess.Popen[str]:
    """Start `openllm pull --json` of `model`."""
    return _started(["openllm.cli", "pull", "--json", model], environ)


def _started(arguments: list[str], environ: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=environ,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def end(process: subprocess.Popen[str], seconds: float = 60.0) -> Ended:
    """Wait for a process and return what it wrote."""
    out, errors = process.communicate(timeout=seconds)
    return Ended(process.returncode, [json.loads(line) for line in out.splitlines()], errors)


def main() -> None:
    from openllm.config.download import DownloadOptions
    from openllm.errors import OpenLLMError
    from openllm.models.pull import Progress, pull
    from openllm.models.ref import parse_ref

    if os.environ.get("HUB_PULLER_LOCKS_LIE"):
        _let_locks_lie()

    def write(event: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    def show(progress: Progress) -> None:
        write({"phase": progress.phase, "done": progress.done, "total": progress.total})

    options = DownloadOptions.model_validate_json(sys.argv[2])
    try:
        model = pull(
            parse_ref(sys.argv[1]), options, framework=lambda *_: "llamacpp", on_progress=show
        )
    except OpenLLMError as error:
        write({"error": type(error).__name__, "message": error.message})
        sys.exit(1)
    write({"tag": model.tag})


def _let_locks_lie() -> None:
    """Make every lock succeed at once, as some network file systems do."""
    import fcntl

    fcntl.flock = lambda *_: None  # type: ignore[assignment]


if __name__ == "__main__":
    main()
