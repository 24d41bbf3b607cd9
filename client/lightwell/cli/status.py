"""The status of a server: its health by the standard health service, and the rest as far as the caller has the right to
it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lightwell.transport.channel import Connection, new_request_id
from lightwell.transport.errors import LightwellError, NotFoundError, translated
from lightwell.v1 import admin_pb2, explainer_pb2, explainer_pb2_grpc, models_pb2

_UNTOLD = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)


@dataclass(frozen=True)
class Status:
    """A server's status. `services` and `health`, of the models by name, are states of the health service: serving,
    not_serving or unknown. `models` and `own`, the server's own status, are None if the caller has no right to them;
    `reason` says why."""

    address: str
    services: dict[str, str]
    models: list[models_pb2.ModelSummary] | None
    health: dict[str, str]
    own: admin_pb2.GetStatusResponse | None
    reason: str


def status(address: str, channel: grpc.Channel, connection: Connection) -> Status:
    """The status of a server. Health needs no token, the models the right to explain, the server's own status the right
    to administer. Raises `LightwellError` if it does not respond."""
    names = [service.full_name for service in explainer_pb2.DESCRIPTOR.services_by_name.values()]
    services = {name: _health(channel, name, connection) for name in names}
    admin, models = explainer_pb2_grpc.AdminServiceStub(channel), explainer_pb2_grpc.ModelServiceStub(channel)
    own, reason = _answered(admin.GetStatus, admin_pb2.GetStatusRequest(), connection)
    listed = own or _answered(models.ListModels, models_pb2.ListModelsRequest(), connection)[0]
    found = None if listed is None else list(listed.models)
    health = {name: _health(channel, name, connection) for name in dict.fromkeys(model.name for model in found or ())}
    return Status(address, services, found, health, own, reason)


def ready(channel: grpc.Channel, connection: Connection) -> str:
    """The state of the service of explanations: serving, not_serving or unknown. Raises `LightwellError` if the server
    does not respond."""
    return _health(channel, explainer_pb2.DESCRIPTOR.services_by_name["ExplainerService"].full_name, connection)


def _answered(ask: Callable[..., Any], request: Message, connection: Connection) -> tuple[Any, str]:
    """The response; or None and the reason, if the caller has no right to it or the server does not know the call."""
    request_id = new_request_id()
    try:
        with translated(request_id):
            return ask(request, **connection.call(request_id)), ""
    except LightwellError as error:
        if error.code not in _UNTOLD:
            raise
        return None, error.message


def _health(channel: grpc.Channel, service: str, connection: Connection) -> str:
    """The state in the health service: serving, not_serving or unknown."""
    request, request_id = health_pb2.HealthCheckRequest(service=service), new_request_id()
    try:
        with translated(request_id):
            answer = health_pb2_grpc.HealthStub(channel).Check(request, **connection.call(request_id))
    except NotFoundError:
        return "unknown"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)).lower()
