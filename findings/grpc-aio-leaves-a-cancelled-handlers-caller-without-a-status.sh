#!/usr/bin/env bash
# grpcio 1.76.0: a handler of grpc.aio that ends by a cancellation of its own sends no status; its caller waits.
#
# Guess: whatever ends a handler ends the call. An exception does (UNKNOWN), and so does a cancellation in the server that
# runs handlers on threads. A cancelled future that a handler awaits (a closed connection of a library, a pool that was
# shut down) is an exception like others, of the handler's own: nobody has cancelled the call.
# Happens: grpc.aio takes it for the caller's cancelling, writes nothing, and keeps the call open. Without a deadline its
# caller waits for as long as the connection lives; with one it is told DEADLINE_EXCEEDED, as if the server were slow.
#
#   grpcio 1.76.0
#   aio     ValueError      UNKNOWN            at once
#   aio     CancelledError  DEADLINE_EXCEEDED  when its time was over
#   threads CancelledError  UNKNOWN            at once
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check grpcio==1.76.0

cat >"$folder/see.py" <<'END'
import asyncio
import concurrent.futures
import logging
import sys
import time

import grpc
import grpc.aio

logging.disable()
PATIENCE = 3.0


def handlers(method):
    method = grpc.unary_unary_rpc_method_handler(method)
    return (grpc.method_handlers_generic_handler("finding.Service", {"Ask": method}),)


def asked(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        began = time.monotonic()
        try:
            channel.unary_unary("/finding.Service/Ask")(b"", timeout=PATIENCE)
        except grpc.RpcError as error:
            late = time.monotonic() - began > 0.9 * PATIENCE
            return error.code().name, "when its time was over" if late else "at once"
    return "OK", "at once"


async def aio(kind):
    async def ask(request, context):
        future = asyncio.get_running_loop().create_future()
        if kind is asyncio.CancelledError:
            future.cancel()
        else:
            future.set_exception(kind())
        return await future

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers(ask))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    told = await asyncio.to_thread(asked, port)
    await server.stop(0)
    return told


def threads(kind):
    def ask(request, context):
        raise kind

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(handlers(ask))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    told = asked(port)
    server.stop(0).wait()
    return told


print("grpcio", grpc.__version__)
for name, told, expected in (
    ("aio     ValueError    ", asyncio.run(aio(ValueError)), ("UNKNOWN", "at once")),
    ("aio     CancelledError", asyncio.run(aio(asyncio.CancelledError)), ("DEADLINE_EXCEEDED", "when its time was over")),
    ("threads CancelledError", threads(concurrent.futures.CancelledError), ("UNKNOWN", "at once")),
):
    if told != expected:
        sys.exit(f"changed: {name} gives {told}")
    print(f"{name}  {told[0]:<17}  {told[1]}")
END
"$folder/venv/bin/python" -W ignore "$folder/see.py"
