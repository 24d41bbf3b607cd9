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
FRONT, DEVICE = CollectorRegistry(), CollectorRegistry()
"""What is counted where callers are answered, and what is counted beside each device."""
ProcessCollector(registry=FRONT)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1, 2, 5)


def _counter(name: str, told: str, *labels: str, at: CollectorRegistry = DEVICE) -> Counter:
    return Counter(f"lightwell_{name}", told, labels, registry=at)


def _gauge(name: str, told: str, *labels: str, at: CollectorRegistry = DEVICE) -> Gauge:
    return Gauge(f"lightwell_{name}", told, labels, registry=at)


def _histogram(
    name: str, told: str, *labels: str, buckets: tuple[float, ...] = _SECONDS, at: CollectorRegistry = DEVICE
) -> Histogram:
    return Histogram(f"lightwell_{name}", told, labels, buckets=buckets, registry=at)


requests = _counter("requests", "Requests answered.", "method", "model", "code", at=FRONT)
malformed = _counter("malformed_requests", "Calls refused before their request could be read.", "why", at=FRONT)
in_progress = _gauge("requests_in_progress", "Requests being answered.", at=FRONT)
request_seconds = _histogram("request_seconds", "Seconds from request to answer.", "method", "model", at=FRONT)
codec_seconds = _histogram("codec_seconds", "Seconds of decoding or encoding for a request.", "what", at=FRONT)
jobs = _gauge("jobs", "Requests that have been admitted and are not over.", at=FRONT)
waiting_jobs = _gauge("waiting_jobs", "Requests that wait for a worker.", at=FRONT)
waiting_seconds = _histogram("waiting_seconds", "Seconds that a request waited for a worker.", "method", at=FRONT)
predicted_queue = _gauge(
    "predicted_queue_seconds",
    "Device seconds that all admitted requests still need, as predicted, by the workers that answer.",
    at=FRONT,
)
predicted_seconds = _counter(
    "predicted_device_seconds", "Device seconds predicted for the requests that were answered.", "method", at=FRONT
)
prediction_error = _histogram(
    "prediction_error_ratio",
    "How far predicted device seconds were from the used ones, as a share of these; requests that ran all their steps.",
    "method",
    buckets=_SHARES,
    at=FRONT,
)
workers = _gauge("workers", "Worker processes by state.", "state", at=FRONT)
restarts = _counter("worker_restarts", "Worker processes that were replaced.", "worker", "why", at=FRONT)
repeated = _counter("repeated_requests", "Requests begun again because their worker had ended.", "method", at=FRONT)
reloads = _counter(
    "credential_reloads", "Times that certificates, tokens or aliases were read anew.", "what", "result", at=FRONT
)

queue_seconds = _histogram("queue_seconds", "Seconds that a request waited for the device.", "method")
queue_rows = _gauge("queue_rows", "Rows waiting for the device.")
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
