"""Imports modules in a child process, as native code may end the interpreter or never return.

The child says what it does on standard output, one JSON object a line; nobody else's words are
taken for its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple

# Not "-m", which would look for modules in the current folder first, nor "-I", which would not
# see packages installed for this user alone.
_CODE = (
    "import sys; sys.path[:] = [each for each in sys.path if each]; "
    "from openllm.cli.doctor_probe import main; main(sys.argv[1:])"
)
_MARK = "openllm-probe "
_MAX_ERROR = 300


class Probe(NamedTuple):
    """How importing went.

    Attributes:
        imported: The modules that could be imported.
        failed: The others that were tried to the end, each with the reason in a few words.
        late: The time was over; of the modules in neither table nothing is known.
        facts: What the modules say of themselves and of the devices.
    """

    imported: frozenset[str] = frozenset()
    failed: Mapping[str, str] = {}
    late: bool = False
    facts: Mapping[str, Any] = {}


def probe(modules: Sequence[str], limit: float) -> Probe:
    """Import `modules` one after the other in a child process that ends after `limit` seconds.

    When one of them ends the interpreter, those after it are not tried.
    """
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", _CODE, *modules],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONIOENCODING": "utf-8"},
        start_new_session=True,
    )
    try:
        out, _ = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return _read(_end(child), None)
    return _read(out, child.returncode)


def main(modules: Sequence[str]) -> None:
    """What the child does."""
    for name in modules:
        _say(trying=name)
        try:
            _say(imported=name, facts=_facts(name, import_module(name)))
        except BaseException as error:  # A module may well call sys.exit.
            _say(failed=name, reason=f"{type(error).__name__}: {error}"[:_MAX_ERROR])


def _facts(name: str, module: Any) -> dict[str, Any]:
    if name == "torch":
        return {"cuda": _cuda(module), "mps": bool(module.backends.mps.is_available())}
    if name == "xllamacpp":
        return {"features": module.get_system_info()}
    return {}


def _cuda(torch: Any) -> list[str]:
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _say(**what: Any) -> None:
    print("\n" + _MARK + json.dumps(what), flush=True)


def _read(out: bytes, status: int | None) -> Probe:
    """Make sense of what the child said before it ended with `status`; None: it was ended."""
    imported: set[str] = set()
    failed: dict[str, str] = {}
    facts: dict[str, Any] = {}
    trying = ""
    for line in out.decode("utf-8", "replace").splitlines():
        if not line.startswith(_MARK):
            continue
        said = json.loads(line.removeprefix(_MARK))
        trying = said.get("trying", "")
        if "imported" in said:
            imported.add(said["imported"])
            facts |= said["facts"]
        elif "failed" in said:
            failed[said["failed"]] = said["reason"]
    if status and trying:
        failed[trying] = f"it ends the interpreter: {_how(status)}"
    return Probe(frozenset(imported), failed, status is None, facts)


def _how(status: int) -> str:
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"exit status {status}"


def _end(child: subprocess.Popen[bytes]) -> bytes:
    """End the child with all that it started; return what it has said."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    return child.communicate()[0]
