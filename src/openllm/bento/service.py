"""The service for `bentoml serve openllm.bento.service:svc`, `bentoml build` and their kin.

The environment says what to serve: `OPEN_LLM_MODELS` (names or files separated by commas; the
bundled model if unset) and `OPEN_LLM_API_KEY`. Where to listen is BentoML's own affair here.
"""

from __future__ import annotations

import os

import uvicorn.config

from openllm.bento.edge import create_service
from openllm.bento.preflight import check_models
from openllm.config.model import ModelConfig
from openllm.config.server import ServerSettings
from openllm.fleet import Fleet
from openllm.models.ref import parse_models

_models = parse_models(os.environ.get("OPEN_LLM_MODELS", "demo"))
check_models(_models, ModelConfig())
# BentoML does not tell the service its address, so the guard must not assume the loopback.
_settings = ServerSettings(
    host="0.0.0.0", api_key=tuple(os.environ.get("OPEN_LLM_API_KEY", "").split())
)

# BentoML makes uvicorn's configuration itself and leaves the protocol to this table.
uvicorn.config.HTTP_PROTOCOLS["auto"] = "openllm.server.protocol:HttpProtocol"

svc = create_service(Fleet(_models, max_waiting=_settings.max_waiting), _settings)
