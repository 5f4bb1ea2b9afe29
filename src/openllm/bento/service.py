"""The service for `bentoml serve openllm.bento.service:svc`, `bentoml build` and their kin.

The environment says what to serve and how: `OPEN_LLM_MODELS`, the file of `OPEN_LLM_CONFIGURATION`,
and `OPEN_LLM_<FIELD>` as for `openllm start`. Where to listen is BentoML's own affair here.
"""

from __future__ import annotations

import os

import uvicorn.config

from openllm.bento.ahead import check_ahead
from openllm.bento.checks import check, fetch
from openllm.bento.edge import Front, create_service
from openllm.bento.options import read_configuration
from openllm.errors import ConfigurationError
from openllm.fleet import Fleet
from openllm.models.offers import asked_once

LISTENING = (
    "host", "port", "grpc", "workers", "backlog", "timeout_keep_alive", "timeout_graceful_shutdown",
    "ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs", "ssl_version",
    "ssl_cert_reqs", "ssl_ciphers",
)  # fmt: skip
"""Options that BentoML's own command has; here they would have no effect."""

_given = read_configuration(None, {}, os.environ)
for _name in LISTENING:
    if (_origin := _given.settings[_name].origin) != "default":
        raise ConfigurationError(
            f"{_origin}: this is for `openllm start`; give it to `bentoml serve` instead"
        )
with asked_once():
    if check(_given).missing:
        check_ahead(_given)
    _models = fetch(_given)
# BentoML does not tell the service its address, so the guard must not assume the loopback.
_settings = _given.server.model_copy(update={"host": "0.0.0.0"})

# BentoML makes uvicorn's configuration itself and leaves the protocol to this table.
uvicorn.config.HTTP_PROTOCOLS["auto"] = "openllm.server.protocol:HttpProtocol"

_fleet = Fleet(
    _models,
    {entry.name: entry.config for entry in _given.entries},
    max_waiting=_settings.max_waiting,
    perplexity=_settings.perplexity,
    load_timeout=_settings.load_timeout,
)
svc = create_service(Front(_fleet, _settings, _given.download))
