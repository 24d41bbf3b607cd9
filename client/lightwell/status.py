"""Whether a server is there, and how it is, by the standard health service."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lightwell.channel import Connection, new_request_id
from lightwell.errors import ForbiddenError, NotFoundError, UnauthenticatedError, UnavailableError, translated
from lightwell.v1 import explainer_pb2, explainer_pb2_grpc, models_pb2


def status(address: str, connection: Connection) -> dict[str, Any]:
    """The server's health by service and by model, and its models' versions; of a server that is not there, why. Health
    needs no token: without one that the server knows, `models` is None, and `reason` says why."""
    services = [service.full_name for service in explainer_pb2.DESCRIPTOR.services_by_name.values()]
    told: dict[str, Any] = {"server": address, "reachable": True}
    try:
        with connection.open(address) as channel:
            told["services"] = {name: _health(channel, name, connection) for name in services}
            told["models"] = _models(channel, connection)
    except UnavailableError as error:
        return {"server": address, "reachable": False, "reason": error.message}
    except (UnauthenticatedError, ForbiddenError) as error:
        return {**told, "models": None, "reason": error.message}
    return told


def _models(channel: grpc.Channel, connection: Connection) -> dict[str, Any]:
    stub, request_id = explainer_pb2_grpc.ModelServiceStub(channel), new_request_id()
    with translated(request_id):
        listed = stub.ListModels(models_pb2.ListModelsRequest(), **connection.call(request_id)).models
    return {
        name: {
            "health": _health(channel, name, connection),
            "versions": [model.version for model in listed if model.name == name],
        }
        for name in dict.fromkeys(model.name for model in listed)
    }


def _health(channel: grpc.Channel, service: str, connection: Connection) -> str:
    """serving, not_serving or unknown, in the health service's own words."""
    request, request_id = health_pb2.HealthCheckRequest(service=service), new_request_id()
    try:
        with translated(request_id):
            answer = health_pb2_grpc.HealthStub(channel).Check(request, **connection.call(request_id))
    except NotFoundError:
        return "unknown"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)).lower()
