"""Sizes in bytes as people read them: in units of 1024, for memory and files alike.

Both are compared all the time, as weights are files that must fit the memory.
"""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size_text(size: int) -> str:
    """Write bytes as "1.2 GiB"."""
    number, unit = float(size), 0
    while number >= 999.95 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.{1 if unit else 0}f} {_UNITS[unit]}"
