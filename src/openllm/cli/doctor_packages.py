"""`openllm doctor` on Python and the packages: what is installed, and whether it is too old."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version

from openllm.cli.doctor_check import Check
from openllm.cli.doctor_floors import FLOORS, is_older

DISTRIBUTION = "open-llm-server"
OLDEST_PYTHON, FIRST_UNTRIED_PYTHON = (3, 10), (3, 14)

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:[^;]*?>=\s*(?P<floor>[0-9][0-9.]*))?")


def look_at_python() -> Sequence[Check]:
    """Say which Python this is, and the version of this package."""
    from openllm._version import __version__

    bits = 64 if sys.maxsize > 2**32 else 32
    text = (
        f"{platform.python_implementation()} {platform.python_version()}, {bits} bits, "
        f"{sys.platform} {platform.machine()}, {sys.executable}"
    )
    tried = OLDEST_PYTHON <= sys.version_info[:2] < FIRST_UNTRIED_PYTHON
    if not tried or bits != 64:
        fix = "use a 64-bit Python from 3.10 to 3.13"
        python = Check("python", "fail", text, fix)
    else:
        python = Check("python", "ok", text)
    return (python, Check("openllm", "ok", __version__))


def look_at_packages() -> Sequence[Check]:
    """Compare what is installed with what this package needs and with the floors."""
    floors = {**required_floors(), **FLOORS}
    return packages(floors, set(required_floors()))


def required_floors() -> dict[str, str]:
    """Return what this package always needs, by name, with the oldest version; "" if any."""
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # It runs from a source tree.
        return {}
    found = (_REQUIREMENT.match(line) for line in lines if ";" not in line)
    return {each["name"].lower(): each["floor"] or "" for each in found if each}


def packages(floors: Mapping[str, str], needed: set[str]) -> Sequence[Check]:
    """Return a check for each package that is missing or too old, and one for all others."""
    installed = {name: installed_version(name) for name in floors}
    wrong = list(_wrong(floors, installed, needed))
    names = {check.name for check in wrong}
    good = [f"{name} {found}" for name, found in installed.items() if found and name not in names]
    return (Check("packages", "ok", ", ".join(sorted(good))), *wrong) if good else wrong


def installed_version(name: str) -> str:
    """Return the version of a distribution; "" if it is not installed."""
    try:
        return version(name) or ""
    except PackageNotFoundError:
        return ""


def _wrong(
    floors: Mapping[str, str], installed: Mapping[str, str], needed: set[str]
) -> Iterator[Check]:
    for name, floor in floors.items():
        fix = f"pip install '{name}>={floor}'" if floor else f"pip install {name}"
        if not installed[name]:
            if name in needed:
                yield Check(name, "fail", "it is needed and not installed", fix)
        elif floor and is_older(installed[name], floor):
            text = f"{installed[name]} is older than {floor}, the oldest that is safe to use"
            yield Check(name, "fail", text, fix)
