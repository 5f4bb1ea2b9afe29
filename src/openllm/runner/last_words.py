"""What a child process writes to its standard error: handed on to ours, its last line kept."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

KEPT = 4096
"""Bytes of what was written last that are remembered."""
LONGEST = 400
"""Characters of a line that a message shows."""
DRAIN = 1.0
"""Seconds to wait for the end of what a process that has ended wrote; it comes at once, unless a
process of its own lives on, or nobody reads what we write."""


class LastWords:
    """A pipe that is to be a child's standard error, and a thread that hands on what comes.

    It is a thread because writing may block, as to a terminal that was halted.

    Attributes:
        writing: The child's end, to be closed here when the child has it.
    """

    def __init__(self) -> None:
        reading, self.writing = os.pipe()
        self._tail = b""
        self._thread = threading.Thread(
            target=self._hand_on, args=(reading,), name="runner-stderr", daemon=True
        )
        self._thread.start()

    def drain(self) -> None:
        """Wait until all is handed on that a child wrote which has ended; blocks for a moment."""
        self._thread.join(DRAIN)

    @property
    def line(self) -> str:
        """The last line that is not blank, as it may stand in a message; "" if there is none."""
        lines = [each.strip() for each in self._tail.decode("utf-8", "replace").splitlines()]
        last = next((each for each in reversed(lines) if each), "")
        return "".join(each if each.isprintable() else "?" for each in last[-LONGEST:])

    def _hand_on(self, reading: int) -> None:
        shown = sys.__stderr__ is not None  # Else number 2 may be any other file of ours.
        while data := os.read(reading, 1 << 16):
            self._tail = (self._tail + data)[-KEPT:]
            with contextlib.suppress(OSError):  # A full disk, a terminal that is gone.
                while shown and data:
                    data = data[os.write(2, data) :]
        os.close(reading)
