"""What the server counts, for Prometheus. All names begin with `lightwell_`; units are base units; labels stay
bounded."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)

requests = Counter("lightwell_requests", "Requests answered.", ["method", "model", "code"], registry=REGISTRY)
in_progress = Gauge("lightwell_requests_in_progress", "Requests being answered.", registry=REGISTRY)
request_seconds = Histogram(
    "lightwell_request_seconds",
    "Seconds from request to answer.",
    ["method", "model"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
queue_seconds = Histogram(
    "lightwell_queue_seconds",
    "Seconds that a request waited for the device.",
    ["method"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
queue_rows = Gauge("lightwell_queue_rows", "Rows waiting for the device.", registry=REGISTRY)
steps = Counter("lightwell_steps", "Device steps.", registry=REGISTRY)
step_seconds = Histogram("lightwell_step_seconds", "Seconds of a device step.", buckets=_SECONDS, registry=REGISTRY)
step_rows = Histogram("lightwell_step_rows", "Rows of a device step.", buckets=_ROWS, registry=REGISTRY)
device_seconds = Counter("lightwell_device_seconds", "Device seconds used.", ["method"], registry=REGISTRY)
memory_splits = Counter("lightwell_out_of_memory_splits", "Chunks halved for want of memory.", registry=REGISTRY)
dropped = Counter(
    "lightwell_dropped_jobs", "Jobs dropped because their caller was gone or late.", ["why"], registry=REGISTRY
)
model_loads = Counter("lightwell_model_loads", "Model versions loaded.", ["state"], registry=REGISTRY)
