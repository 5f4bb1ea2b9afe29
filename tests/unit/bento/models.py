"""Scripted models, and BentoML's older services without their warnings."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import httpx2
from starlette.types import ASGIApp

with warnings.catch_warnings():  # That they will be removed is known.
    warnings.simplefilter("ignore")
    from bentoml.io import JSON, Text
    from bentoml.legacy import Runnable, Runner, Service

__all__ = ["JSON", "Runnable", "Text", "app_of", "client", "own_runner", "script", "service"]


def script(folder: Path, name: str, **content: Any) -> str:
    """Write a script for the scripted engine; returns what names it as a model."""
    path = folder / f"{name}.script.json"
    path.write_text(json.dumps({"default": {"reply": "one two three four five"}} | content))
    return str(path)


def service(*runners: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Service("house", runners=list(runners))


def app_of(svc: Any) -> ASGIApp:
    """Return `svc.asgi_app` without its metrics, which a process can have only once."""
    from bentoml._internal.server.http_app import HTTPAppFactory

    app: ASGIApp = HTTPAppFactory(svc, enable_metrics=False)()
    return app


def own_runner(runnable: type, name: str) -> Any:
    """Return a runner of a user's own, made without us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Runner(runnable, name=name, embedded=True)


def client(app: ASGIApp) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test")
