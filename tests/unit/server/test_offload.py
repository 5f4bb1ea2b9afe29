"""What leaves the event loop."""

from __future__ import annotations

import threading

import pytest

from openllm.server.offload import INLINE_BYTES, offload

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("size", "inline"), [(INLINE_BYTES, True), (INLINE_BYTES + 1, False)])
async def test_only_large_work_leaves_the_loop(size: int, inline: bool) -> None:
    here = threading.current_thread()
    assert (await offload(size, threading.current_thread) is here) == inline
