"""Signals that come before the server takes them, as while models are downloaded."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

logger = logging.getLogger("openllm")


class EndedEarly(SystemExit):
    """A signal ended the command before anything was served; the exit status is 0."""

    def __init__(self, sig: int) -> None:
        super().__init__(0)
        self.line = (
            f"Ended by {signal.Signals(sig).name}: what has been downloaded is kept; the same"
            " command goes on from there."
        )


class EarlySignals:
    """SIGTERM ends the process, SIGHUP is remembered; once entered, until left."""

    def __init__(self) -> None:
        self.hung_up = False
        self._terminal = os.isatty(0)

    def left_alone(self) -> bool:
        """Whether the terminal that we were started in is gone."""
        return self._terminal and not os.isatty(0)

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Raise `EndedEarly` where the main thread is when a signal asks for it."""
        handlers = {signal.SIGTERM: _end, signal.SIGHUP: self._hang_up}
        before = {each: signal.signal(each, handler) for each, handler in handlers.items()}
        try:
            yield
        finally:
            for each, earlier in before.items():
                signal.signal(each, earlier)

    def _hang_up(self, sig: int, _: FrameType | None) -> None:
        if self.left_alone():
            raise EndedEarly(sig)
        self.hung_up = True
        logger.info("SIGHUP: the configuration will be read again when the models are ready")


def _end(sig: int, _: FrameType | None) -> None:
    raise EndedEarly(sig)
