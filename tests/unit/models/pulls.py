"""What the tests of `openllm.models.pull` share: a small model, and how it is pulled and judged."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openllm.config.download import DownloadOptions
from openllm.models import store
from openllm.models.pull import Progress, pull
from openllm.models.ref import parse_ref
from openllm.models.store import StoredModel
from tests.hub_server import HubServer

MB = 1 << 20
WEIGHTS = random.Random(1).randbytes(3 * MB + 12345)
FILES = {"config.json": b'{"architectures": ["X"]}', "model.safetensors": WEIGHTS}
SIZE = sum(map(len, FILES.values()))
TOKEN = "hf_secret0123456789"


def fetch(
    hub: HubServer,
    text: str = "org/tiny",
    on_progress: Callable[[Progress], None] | None = None,
    cancelled: threading.Event | None = None,
    **options: Any,
) -> StoredModel:
    usual: dict[str, Any] = {
        "hub_endpoint": hub.url, "download_retries": 3, "download_timeout": 1.0,
    }  # fmt: skip
    return pull(
        parse_ref(text),
        DownloadOptions(**usual | options),
        framework=lambda *_: "pt",
        on_progress=on_progress,
        cancelled=cancelled,
    )


def right(model: StoredModel, name: str = "model.safetensors", content: bytes = WEIGHTS) -> bool:
    return Path(model.folder, name).read_bytes() == content and not store.verify(model.tag)
