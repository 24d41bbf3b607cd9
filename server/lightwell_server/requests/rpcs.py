"""Services by their descriptors: an rpc is a function of its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass


def functions(service: object) -> dict[str, Callable[..., Any]]:
    """The public methods of an object, by name: each implements the rpc of its name."""
    return {name: getattr(service, name) for name in dir(type(service)) if not name.startswith("_")}


def serve(server: grpc.aio.Server, service: ServiceDescriptor, functions: Mapping[str, Callable[..., Any]]) -> None:
    """Registers the functions for rpcs of a service. Each takes the request and gRPC's context, and returns the
    response, or yields responses if the rpc streams."""
    handlers = {rpc.name: _handler(rpc, functions[rpc.name]) for rpc in service.methods if rpc.name in functions}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


def _handler(rpc: MethodDescriptor, function: Callable[..., Any]) -> Any:  # noqa: ANN401 - gRPC's handlers have no type
    made = grpc.unary_stream_rpc_method_handler if rpc.server_streaming else grpc.unary_unary_rpc_method_handler
    request, response = GetMessageClass(rpc.input_type), GetMessageClass(rpc.output_type)
    return made(function, request_deserializer=request.FromString, response_serializer=response.SerializeToString)
