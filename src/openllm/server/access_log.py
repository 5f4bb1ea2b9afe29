"""One line of JSON for each request, on logger `openllm.access`. Never bodies, queries or keys."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from openllm.config.server import ServerSettings

_MAX_PATH = 1024

logger = logging.getLogger("openllm.access")


def show_access(settings: ServerSettings) -> None:
    """Let the lines be written if the settings ask for them."""
    if settings.access_log:
        logger.setLevel(logging.INFO)


def log_access(scope: Mapping[str, Any], status: int | str, seconds: float) -> None:
    """Log a finished request; `status` 499 is a client that left before it had an answer, and a
    name is gRPC's.

    Everything that could end a line or steer a terminal is escaped: ASCII only, no control
    character.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    fields = {
        "method": scope["method"],
        "path": scope["path"][:_MAX_PATH],
        "status": status,
        "duration_ms": round(seconds * 1000, 1),
        "request_id": scope["state"]["request_id"],
    }
    logger.info("%s", json.dumps(fields).replace("\x7f", "\\u007f"))
