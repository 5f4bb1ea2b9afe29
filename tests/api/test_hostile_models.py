"""Names of models in requests: what is not served is not found, whatever the name would reach."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from tests.api.conftest import chat
from tests.hostile_names import HOSTILE

pytestmark = pytest.mark.anyio


@pytest.mark.reliability("S-28")
async def test_no_request_follows_a_hostile_name(http: httpx2.AsyncClient) -> None:
    expected = outcome(await ask(http, "unknown"))
    assert expected[0] == 404
    for name in filter(None, HOSTILE):
        found = outcome(await ask(http, name))
        assert found == expected or found[0] == 400, name
        if name.isprintable():
            reply = await http.get(f"/v1/models/{quote(name, safe='')}")
            assert reply.status_code in (400, 404), name


async def ask(http: httpx2.AsyncClient, name: str) -> httpx2.Response:
    body = json.dumps(chat(model=name)).encode()
    headers = {"Content-Type": "application/json"}
    return await http.post("/v1/chat/completions", content=body, headers=headers)


def outcome(reply: httpx2.Response) -> tuple[int, Any]:
    """Return the status, and the error without its text, which names the model."""
    return reply.status_code, dict(reply.json()["error"], message="")
