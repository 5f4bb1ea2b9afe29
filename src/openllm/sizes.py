"""Sizes in bytes as people read and write them.

They are shown in units of 1024, for memory and files alike: both are compared all the time, as
weights are files that must fit the memory.
"""

from __future__ import annotations

import re

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_POWERS = "kmgtp"
_SIZE = re.compile(
    rf"(\d{{1,20}})(?:\.(\d{{1,20}}))?\s*([{_POWERS}]?)(i?)b?", re.IGNORECASE | re.ASCII
)


def size_text(size: int) -> str:
    """Write bytes as "1.2 GiB"."""
    number, unit = float(size), 0
    while number >= 999.95 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.{1 if unit else 0}f} {_UNITS[unit]}"


def read_size(text: str) -> int:
    """Read "4GiB", "10 GB", "1.5m" or a number of bytes; "i" makes the unit one of 1024.

    Raises:
        ValueError: It is none of these.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("write a number of bytes, or a size such as 4GiB, 10GB or 500MB")
    whole, fraction, power, binary = match.groups(default="")
    unit = (1024 if binary else 1000) ** (_POWERS.find(power.lower()) + 1 if power else 0)
    size: int = int(whole + fraction) * unit // 10 ** len(fraction)
    return size
