"""Whether a server is there, and how it is, by the standard health service."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lightwell import channel
from lightwell.client import Client
from lightwell.errors import UnavailableError, from_rpc
from lightwell.v1 import explainer_pb2

PATIENCE = 5.0
"""Seconds for each call."""


def status(address: str) -> dict[str, Any]:
    """The server's health by service and by model, and its models' versions; of a server that is not there, why."""
    services = [service.full_name for service in explainer_pb2.DESCRIPTOR.services_by_name.values()]
    told: dict[str, Any] = {"server": address, "reachable": True, "models": {}}
    try:
        with Client(address, timeout=PATIENCE) as client, grpc.insecure_channel(address, channel.options()) as health:
            models = client.models()
            told["services"] = {name: _health(health, name) for name in services}
            for name in dict.fromkeys(model.name for model in models):
                versions = [model.version for model in models if model.name == name]
                told["models"][name] = {"health": _health(health, name), "versions": versions}
    except UnavailableError as error:
        return {"server": address, "reachable": False, "reason": error.message}
    return told


def _health(health: grpc.Channel, service: str) -> str:
    """serving, not_serving or unknown, in the health service's own words."""
    try:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = health_pb2_grpc.HealthStub(health).Check(request, timeout=PATIENCE)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            return "unknown"
        raise from_rpc(error) from None
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)).lower()
