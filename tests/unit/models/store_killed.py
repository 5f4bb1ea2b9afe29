"""A program that is killed at every step of a change of the store, one after the other.

`python -m tests.unit.models.store_killed add|remove` prints, as JSON, how many steps there were,
how many of the kills left the model, and what was wrong in the end (nothing, one hopes).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from itertools import count

from openllm.models import store
from tests.unit.models.store_models import COMMIT, SHARDS, added

TAG = f"pt-org--model:{COMMIT}"


def main(change: str) -> None:
    changes: dict[str, Callable[[], object]] = {"add": added, "remove": lambda: store.remove(TAG)}
    wrong: list[str] = []
    kept = 0
    for step in count(1):
        _set_up(change)
        killed = _killed_at(step, changes[change])
        kept += len(store.stored())
        wrong += [f"step {step}: {each}" for each in _wrong()]
        if not killed:
            break
    print(json.dumps({"steps": step, "kept": kept, "wrong": wrong}))


def _set_up(change: str) -> None:
    if change == "remove":
        added()
    elif store.stored():
        store.remove(TAG)


def _killed_at(step: int, change: Callable[[], object]) -> bool:
    """Run `change` in a child that kills itself at its `step`-th call of the system."""
    child = os.fork()
    if child == 0:
        seen = count(1)

        def on_event(event: str, _: object) -> None:
            if event.startswith(("os.", "open", "fcntl.", "shutil.")) and next(seen) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(on_event)
        change()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def _wrong() -> list[str]:
    found = []
    models = store.stored()
    if models and (models[0].tag != TAG or store.verify(TAG) or len(models[0].files) < len(SHARDS)):
        found.append(f"half a model: {models}")
    for folder in (store.home() / "models").glob("*/*/"):
        if folder.is_dir() and not (folder / "model.yaml").exists():
            found.append(f"BentoML cannot list {folder}")
    moment = time.time() - 3600
    for path in (store.home() / "openllm").glob("openllm-incoming-*"):
        os.utime(path, (moment, moment))
    store.collect()
    left = {path.name for path in (store.home() / "openllm").iterdir()}
    if left - {"downloads", "store.lock"}:
        found.append(f"not swept: {left}")
    if added().tag != TAG or store.find_tag("pt-org--model") is None:
        found.append("cannot be added again")
    if (store.home() / "models" / "pt-org--model" / "latest").read_text() != COMMIT:
        found.append("latest is wrong")
    return found


if __name__ == "__main__":
    main(sys.argv[1])
