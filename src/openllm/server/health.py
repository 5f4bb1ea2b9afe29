"""Probes: /livez says the process answers, /readyz that every model does."""

from __future__ import annotations

from typing import Any

import orjson

from openllm.fleet import Fleet
from openllm.server.errors import error_body
from openllm.server.exchange import Exchange


async def live(exchange: Exchange, _: Fleet) -> None:
    """GET /livez and /healthz: 200 as long as the event loop turns."""
    await exchange.answer(b'{"status":"alive"}')


async def ready(exchange: Exchange, fleet: Fleet) -> None:
    """GET /readyz: 200 when every model is ready, else 503; the state of each model in both."""
    # No reasons: a probe needs no key, and reasons may name files.
    models = [{"name": status.name, "state": status.state} for status in fleet.statuses()]
    if fleet.ready:
        await exchange.answer(orjson.dumps({"status": "ready", "models": models}))
        return
    waiting = ", ".join(f"{each['name']} is {each['state']}" for each in models)
    error: dict[str, Any] = orjson.loads(
        error_body(503, f"not every model is ready: {waiting}", code="model_unavailable")
    )
    body = orjson.dumps({"status": "not ready", "models": models, **error})
    await exchange.answer(body, status=503, headers=[(b"retry-after", b"1")])
