"""Calls as OpenTelemetry traces: a span for the call, and within it decode, queue, the first steps, encode."""

from __future__ import annotations

import logging
import threading
import time

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from lightwell_server import __version__
from lightwell_server.requests.call import Call

log = logging.getLogger(__name__)

LAST = 2.0
"""Timeout in seconds for sending the last traces."""


class Tracing:
    """Sends the spans of calls to a collector (`http://HOST:PORT` in plaintext, `https://` with TLS), in batches. A
    call with a `traceparent` becomes part of that trace, and follows the caller's sampling decision."""

    def __init__(self, endpoint: str) -> None:
        resource = Resource.create({"service.name": "lightwell", "service.version": __version__})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https")))
        )
        self._tracer = self._provider.get_tracer("lightwell_server", __version__)
        self._context = TraceContextTextMapPropagator()

    def __call__(self, call: Call) -> None:
        """Records a call that is over."""
        epoch = time.time() - time.monotonic()

        def at(moment: float) -> int:
            return int((moment + epoch) * 1e9)

        parent = self._context.extract({"traceparent": call.traceparent} if call.traceparent else {})
        root = self._tracer.start_span(
            call.rpc.strip("/"), parent, SpanKind.SERVER, _attributes(call), start_time=at(call.began)
        )
        within = set_span_in_context(root)
        for span in call.spans:
            part = self._tracer.start_span(
                span.name, within, attributes=dict(span.attributes), start_time=at(span.began)
            )
            part.end(at(span.ended))
        if call.code != "OK":
            root.set_status(Status(StatusCode.ERROR, call.reason or call.code))
        root.end(at(call.ended))

    def stop(self) -> None:
        """Sends the remaining traces within a timeout, so that a collector that does not respond cannot block
        shutdown."""
        sending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sending.start()
        sending.join(LAST)
        if sending.is_alive():
            log.warning("the collector of traces has not answered within %g seconds; the last traces are lost", LAST)


def _attributes(call: Call) -> dict[str, str | int]:
    service, _, rpc = call.rpc.strip("/").partition("/")
    found: dict[str, str | int] = {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": rpc,
        "rpc.grpc.status_code": int(grpc.StatusCode[call.code].value[0]),
        "lightwell.request_id": call.id,
        "lightwell.caller": call.caller,
        "lightwell.method": call.method,
        "lightwell.model": call.model,
        "lightwell.reason": call.reason,
    }
    return {key: value for key, value in found.items() if value != ""}
