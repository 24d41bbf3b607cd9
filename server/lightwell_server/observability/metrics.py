"""What a server counts, for Prometheus. All names begin with `lightwell_`; units are base units; labels stay bounded.
Labels whose values are known stand at 0 from the start: a counter that appears with its first event shows no rise, so
that no alert would see it. Each server has objects of its own, and so has each `Local`: several in one process do not
share figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

MetricT = TypeVar("MetricT", Counter, Histogram)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1, 2, 5)
FAILURES = ("ABORTED", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
"""Codes of requests that were in order and were not answered. Only these stand at 0 from the start: no alert waits for
the first of the others."""
RARE = ("ABORTED", "INTERNAL")
"""Those of which a single one raises an alert. They stand at 0 for each model, with which the page of metrics grows."""


def without_created() -> None:
    """Leaves out, in this process, when each metric was made: that doubles the page, and the process's start time tells
    it too."""
    disable_created_metrics()  # type: ignore[no-untyped-call]


class _Metrics:
    """Metrics and their `registry`. Each label is a keyword with the values that are known, if any are."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def _counter(self, name: str, text: str, **labels: Sequence[str]) -> Counter:
        return _started(Counter(f"lightwell_{name}", text, tuple(labels), registry=self.registry), labels)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"lightwell_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, *, buckets: tuple[float, ...] = _SECONDS, **labels: Sequence[str]
    ) -> Histogram:
        metric = Histogram(f"lightwell_{name}", text, tuple(labels), buckets=buckets, registry=self.registry)
        return _started(metric, labels)


def _started(metric: MetricT, labels: Mapping[str, Sequence[str]]) -> MetricT:
    """A metric with a figure for each combination of the values of its labels."""
    if labels:
        for values in product(*labels.values()):
            metric.labels(*values)
    return metric


class GatewayMetrics(_Metrics):
    """What is counted where callers are answered, of so many `workers`. `calls` are the names of all calls: those
    without a method count as one."""

    def __init__(self, methods: Sequence[str] = (), workers: int = 0, calls: Sequence[str] = ()) -> None:
        super().__init__()
        numbers = [str(number) for number in range(workers)]
        self._methods = methods
        ProcessCollector(registry=self.registry)
        self.requests = self._counter(
            "requests", "Requests answered.", method=(*methods, *calls), model=("",), code=FAILURES
        )
        self.malformed = self._counter(
            "malformed_requests",
            "Calls refused before their request could be read.",
            why=("no_message", "unknown_rpc"),
        )
        self.in_progress = self._gauge("requests_in_progress", "Requests being answered.")
        self.request_seconds = self._histogram(
            "request_seconds", "Seconds from request to answer.", method=calls, model=("",)
        )
        self.codec_seconds = self._histogram(
            "codec_seconds", "Seconds of decoding or encoding for a request.", what=("header", "decode", "encode")
        )
        self.jobs = self._gauge("jobs", "Requests that have been admitted and are not over.")
        self.waiting_jobs = self._gauge("waiting_jobs", "Requests that wait for a worker.")
        self.waiting_seconds = self._histogram(
            "waiting_seconds", "Seconds that a request waited for a worker.", method=methods
        )
        self.predicted_queue = self._gauge(
            "predicted_queue_seconds",
            "Device seconds that all admitted requests still need, as predicted, by the workers that answer.",
        )
        self.predicted_seconds = self._counter(
            "predicted_device_seconds", "Device seconds predicted for the requests that were answered.", method=methods
        )
        self.prediction_error = self._histogram(
            "prediction_error_ratio",
            "How far predicted device seconds were from the used ones, as a share of these; requests that ran all their"
            " steps.",
            buckets=_SHARES,
            method=methods,
        )
        self.workers = self._gauge("workers", "Worker processes by state.", "state")
        self.restarts = self._counter(
            "worker_restarts", "Worker processes that were replaced.", worker=numbers, why=("crashed", "killed")
        )
        self.repeated = self._counter(
            "repeated_requests", "Requests begun again because their worker had ended.", method=methods
        )
        self.reloads = self._counter(
            "credential_reloads",
            "Times that certificates, tokens or aliases were read anew.",
            what=("certificates", "tokens", "aliases"),
            result=("done", "failed"),
        )

    def start_model(self, name: str) -> None:
        """The rare failures of a model's requests stand at 0 from now on."""
        for method, code in product(self._methods, RARE):
            self.requests.labels(method, name, code)


class DeviceMetrics(_Metrics):
    """What is counted beside each device."""

    def __init__(self, methods: Sequence[str] = ()) -> None:
        super().__init__()
        self.queue_seconds = self._histogram(
            "queue_seconds", "Seconds that a request waited for the device.", method=methods
        )
        self.queue_rows = self._gauge("queue_rows", "Rows waiting for the device.")
        self.steps = self._counter("steps", "Device steps.")
        self.step_seconds = self._histogram("step_seconds", "Seconds of a device step.")
        self.step_rows = self._histogram("step_rows", "Rows of a device step.", buckets=_ROWS)
        self.device_seconds = self._counter("device_seconds", "Device seconds used.", method=methods)
        self.device_memory = self._gauge("device_memory_bytes", "Bytes of the device in use by this process.", "device")
        self.saved_seconds = self._counter(
            "saved_device_seconds",
            "Device seconds that requests had still planned for when their caller was gone or late; an upper bound"
            " where a method may stop early.",
            method=methods,
        )
        self.memory_splits = self._counter("out_of_memory_splits", "Chunks halved for want of memory.")
        self.dropped = self._counter(
            "dropped_jobs", "Jobs dropped because their caller was gone or late.", why=("gone", "late")
        )
        self.model_loads = self._counter("model_loads", "Model versions loaded.", state=("ready", "refused"))
        self.cuts = self._counter(
            "cut_requests",
            "Parts of graphs that were at hand (hit) or had to be cut out (miss).",
            cache=("hit", "miss"),
        )
