"""The standard services beside our own: health checking and reflection.

Health of "" says that the server lives, of our service that every model is ready.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from openllm.fleet import Fleet
from openllm.server.errors import ProtocolError
from openllm.server.grpc_api import SERVICE
from openllm.server.grpc_call import Call, Handler
from openllm.server.grpc_messages import parse_message

HEALTH = "grpc.health.v1.Health"
CHECK = f"/{HEALTH}/Check"
# Newer clients ask for v1 and older ones for v1alpha; but for the name they are the same.
REFLECTIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

# How often a watched model is looked at.
_WATCH_SECONDS = 1.0

_Status = health_pb2.HealthCheckResponse


async def _check(call: Call, fleet: Fleet) -> None:
    service = await call.read(health_pb2.HealthCheckRequest, lambda message: message.service)
    status = _status(fleet, service)
    if status == _Status.SERVICE_UNKNOWN:
        raise ProtocolError(404, f'no service {service[:80]!r} is watched; send "" or "{SERVICE}"')
    await call.send(_Status(status=status).SerializeToString())


async def _watch(call: Call, fleet: Fleet) -> None:
    call.standing = True
    service = await call.read(health_pb2.HealthCheckRequest, lambda message: message.service)
    told = None
    while True:
        status = _status(fleet, service)
        if status != told:
            told = status
            await call.send(_Status(status=status).SerializeToString())
        await asyncio.sleep(_WATCH_SECONDS)


def _status(fleet: Fleet, service: str) -> int:
    known = {"": True, SERVICE: fleet.ready}
    if service not in known:
        return int(_Status.SERVICE_UNKNOWN)
    return int(_Status.SERVING if known[service] else _Status.NOT_SERVING)


def _reflection(services: Sequence[str]) -> Handler:
    servicer = reflection.ReflectionServicer(services)

    async def reflect(call: Call, _: Fleet) -> None:
        call.standing = True
        while (raw := await call.receive(math.inf)) is not None:
            request = parse_message(raw, reflection_pb2.ServerReflectionRequest)
            for response in _responses(servicer, request):
                await call.send(response.SerializeToString())

    return reflect


def _responses(servicer: Any, request: Any) -> Sequence[Any]:
    return list(servicer.ServerReflectionInfo(iter((request,)), None))


def standard_methods() -> Mapping[str, Handler]:
    """Return the methods of both services by path."""
    reflect = _reflection([SERVICE, HEALTH, *REFLECTIONS])
    return {
        CHECK: _check,
        f"/{HEALTH}/Watch": _watch,
        **{f"/{name}/ServerReflectionInfo": reflect for name in REFLECTIONS},
    }
