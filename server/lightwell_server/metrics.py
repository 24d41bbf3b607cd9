"""What the server counts, for Prometheus. All names begin with `lightwell_`; units are base units; labels stay
bounded."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

disable_created_metrics()  # type: ignore[no-untyped-call] # they double the scrape and tell what the process's start time tells
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


def _counter(name: str, told: str, *labels: str) -> Counter:
    return Counter(f"lightwell_{name}", told, labels, registry=REGISTRY)


def _gauge(name: str, told: str, *labels: str) -> Gauge:
    return Gauge(f"lightwell_{name}", told, labels, registry=REGISTRY)


def _histogram(name: str, told: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
    return Histogram(f"lightwell_{name}", told, labels, buckets=buckets, registry=REGISTRY)


requests = _counter("requests", "Requests answered.", "method", "model", "code")
malformed = _counter("malformed_requests", "Calls refused before their request could be read.", "why")
in_progress = _gauge("requests_in_progress", "Requests being answered.")
request_seconds = _histogram("request_seconds", "Seconds from request to answer.", "method", "model")
queue_seconds = _histogram("queue_seconds", "Seconds that a request waited for the device.", "method")
codec_seconds = _histogram("codec_seconds", "Seconds of decoding or encoding for a request.", "what")
queue_rows = _gauge("queue_rows", "Rows waiting for the device.")
jobs = _gauge("jobs", "Requests that have been accepted and are not over.")
steps = _counter("steps", "Device steps.")
step_seconds = _histogram("step_seconds", "Seconds of a device step.")
step_rows = _histogram("step_rows", "Rows of a device step.", buckets=_ROWS)
device_seconds = _counter("device_seconds", "Device seconds used.", "method")
device_memory = _gauge("device_memory_bytes", "Bytes of the device in use by this process.", "device")
saved_seconds = _counter(
    "saved_device_seconds",
    "Device seconds that requests had still planned for when their caller was gone or late; an upper bound where a"
    " method may stop early.",
    "method",
)
memory_splits = _counter("out_of_memory_splits", "Chunks halved for want of memory.")
dropped = _counter("dropped_jobs", "Jobs dropped because their caller was gone or late.", "why")
model_loads = _counter("model_loads", "Model versions loaded.", "state")
cuts = _counter("cut_requests", "Parts of graphs that were at hand (hit) or had to be cut out (miss).", "cache")
reloads = _counter("credential_reloads", "Times that certificates or tokens were read anew.", "what", "result")
