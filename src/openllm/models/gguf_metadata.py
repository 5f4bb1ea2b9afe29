"""The metadata of a GGUF file by key: every access checks the type and the range.

It knows how values are laid out, and of their meaning only what every file has: its alignment.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping

from openllm.models.gguf_layout import ARRAY, INTEGERS, UINT32, Array, Entry
from openllm.models.gguf_window import Window, shown

LEAST_ALIGNMENT, MAX_ALIGNMENT = 32, 2**20


class Metadata:
    """The metadata of one file; every access checks type and range."""

    def __init__(self, window: Window, entries: Mapping[str, Entry]) -> None:
        """Check the numbers by layer; of other values each is checked when it is asked for."""
        self._window = window
        self._entries = entries
        for key, entry in entries.items():
            if isinstance(entry.value, Array) and entry.value.content:
                self.numbers(key)
            elif key.endswith("_epsilon"):
                self._check_epsilon(key, entry.value)

    def _check_epsilon(self, key: str, value: object) -> None:
        """Fail for a negative one and NaN, which make llama.cpp abort with the first token."""
        if not isinstance(value, float) or not value >= 0:
            self._window.fail(f"is damaged: {shown(key)} is {value!r}, no positive number")

    def text(self, key: str) -> str:
        """Return a text, "" where there is none."""
        entry = self._entries.get(key)
        if entry is None:
            return ""
        if not isinstance(entry.value, str):
            self._window.fail(f"is damaged: {shown(key)} is not a text")
        return entry.value

    def integer(self, key: str, *, least: int = 0, most: int = 2**31 - 1) -> int | None:
        """Return a number from `least` to `most`; None where there is none or one per layer."""
        entry = self._entries.get(key)
        if entry is None or entry.kind == ARRAY:
            return None
        value = entry.value
        if isinstance(value, bool) or not isinstance(value, int):
            self._window.fail(f"is damaged: {shown(key)} is not a whole number")
        if not least <= value <= most:
            self._window.fail(f"is damaged: {shown(key)} is {value}")
        return value

    def flag(self, key: str) -> bool | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if not isinstance(entry.value, bool):
            self._window.fail(f"is damaged: {shown(key)} is not a truth value")
        return entry.value

    def array(self, key: str, kinds: tuple[int, ...]) -> Array | None:
        """Return where an array is whose elements have one of the types `kinds`."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if not isinstance(entry.value, Array) or entry.value.kind not in kinds:
            self._window.fail(f"is damaged: {shown(key)} is not an array of the right type")
        return entry.value

    def alignment(self) -> int:
        entry = self._entries.get("general.alignment", Entry(UINT32, 32))
        value = entry.value
        # llama.cpp aborts the process on any other type.
        if entry.kind != UINT32 or not isinstance(value, int):
            self._window.fail("is damaged: its alignment is not a 32-bit number")
        # Tensors that are aligned less than its own buffers make llama.cpp abort as well.
        if not LEAST_ALIGNMENT <= value <= MAX_ALIGNMENT or value & (value - 1):
            self._window.fail(
                f"is damaged: its alignment {value} is no power of two from 32 to 2^20"
            )
        return value

    def numbers(self, key: str, *, most: int = 2**31 - 1) -> tuple[int, ...]:
        """Return a number for each layer, one alone if it holds for all; () if there is none."""
        entry = self._entries.get(key)
        if entry is None or entry.kind != ARRAY:
            value = (
                None if entry and isinstance(entry.value, bool) else self.integer(key, most=most)
            )
            return () if value is None else (value,)
        found = entry.value
        if not isinstance(found, Array) or found.kind not in INTEGERS:
            self._window.fail(f"is damaged: {shown(key)} is not an array of whole numbers")
        values = array(INTEGERS[found.kind], found.content)
        if sys.byteorder == "big":
            values.byteswap()
        if any(not 0 <= value <= most for value in values):
            self._window.fail(f"is damaged: {shown(key)} has a number that is not from 0 to {most}")
        return tuple(values)
