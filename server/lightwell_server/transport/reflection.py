"""gRPC reflection in both versions, whose messages are the same on the wire. Tools try v1 first, and the library has
only v1alpha. https://github.com/grpc/grpc/blob/master/doc/server-reflection.md"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2

OLD = reflection.SERVICE_NAME
NEW = OLD.replace("v1alpha", "v1")


def serve(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Registers reflection for services, and for reflection itself."""
    described = reflection.aio.ReflectionServicer((*services, OLD, NEW), _described())
    handler = grpc.stream_stream_rpc_method_handler(
        described.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (OLD, NEW):
        handlers = {"ServerReflectionInfo": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))


def _described() -> descriptor_pool.DescriptorPool:
    """The pool of all messages, including those of v1, which are copies of v1alpha's under another name."""
    pool, file = descriptor_pool.Default(), descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    renamed = text_format.MessageToString(file).replace("v1alpha", "v1")
    pool.AddSerializedFile(text_format.Parse(renamed, descriptor_pb2.FileDescriptorProto()).SerializeToString())
    return pool
