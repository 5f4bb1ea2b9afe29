"""What the tests of `openllm.models.pull` share: a small model, and how it is pulled and judged."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from openllm.config.download import DownloadOptions
from openllm.models import store
from openllm.models.pull import Progress, pull
from openllm.models.ref import parse_ref
from openllm.models.store import StoredModel
from tests.hub_server import HubServer
from tests.unit.models.gguf_bytes import ARRAY, STRING, build, right_metadata

MB = 1 << 20


def weights(size: int, seed: int = 1) -> bytes:
    """Return a safetensors file of `size` bytes, but for tensors that its header would name."""
    header = b'{"__metadata__": {}}'
    beginning = len(header).to_bytes(8, "little") + header
    return beginning + random.Random(seed).randbytes(size - len(beginning))


def gguf(size: int, seed: int = 1) -> bytes:
    """Return what begins as a GGUF file does, of `size` bytes."""
    return b"GGUF" + random.Random(seed).randbytes(size - 4)


def headed_gguf(header: int, size: int) -> bytes:
    """Return a GGUF file with a header of some `header` bytes, and `size` bytes of weights."""
    texts = [f"token{index:019d}" for index in range(header // 32)]
    metadata = right_metadata() | {"tokenizer.ggml.tokens": (ARRAY, (STRING, texts))}
    del metadata["tokenizer.ggml.scores"], metadata["tokenizer.ggml.token_type"]
    beginning = build(metadata, (("t", (size // 4,), 0, 0),), data_size=0).content
    return bytes(beginning) + random.Random(1).randbytes(size)


WEIGHTS = weights(3 * MB + 12345)
GGUF = gguf(len(WEIGHTS))
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


@contextmanager
def downloading(source: str, commit: str) -> Iterator[None]:
    """Have the lock of a download, as the process that is at work on it."""
    lead = store.lead(store.lock_of(store.staging(source, commit)))
    assert lead is not None
    with closing(lead):
        yield


def right(model: StoredModel, name: str = "model.safetensors", content: bytes = b"") -> bool:
    content = content or (GGUF if name.endswith(".gguf") else WEIGHTS)
    return Path(model.folder, name).read_bytes() == content and not store.verify(model.tag)
