"""Bodies that come slowly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message

from openllm.server import body
from openllm.server.errors import ProtocolError

pytestmark = pytest.mark.anyio

SCOPE = {"headers": [(b"content-type", b"application/json")]}


async def drip(seconds: float) -> AsyncIterator[Message]:
    while True:
        await asyncio.sleep(seconds)
        yield {"type": "http.request", "body": b"x", "more_body": True}


@pytest.mark.parametrize(("gap", "says"), [(0.01, "bytes a second"), (60.0, "no part")])
async def test_a_body_that_never_ends_is_refused(
    gap: float, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "IDLE_TIMEOUT", 0.5)
    pieces = drip(gap)
    with pytest.raises(ProtocolError, match=says) as refused:
        await asyncio.wait_for(body.read_body(SCOPE, pieces.__anext__, 1000), 20)
    assert refused.value.status == 408
    assert (b"connection", b"close") in refused.value.headers
