"""The metrics of all processes as one page."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lightwell_server.observability.metrics import GatewayMetrics

Scraped = Callable[[], Iterable[Metric]]
"""Collects the metrics of all devices."""


class _Merged(Collector):
    """The gateway's metrics and those of the devices. Families that both have are merged, because each may appear only
    once."""

    def __init__(self, metrics: GatewayMetrics, scraped: Scraped) -> None:
        self._metrics, self._scraped = metrics, scraped

    def collect(self) -> Iterable[Metric]:
        """All metrics, with the families of all processes merged."""
        families: dict[str, Metric] = {}
        for family in (*self._metrics.registry.collect(), *self._scraped()):
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            merged.samples.extend(family.samples)
        return families.values()

    def describe(self) -> Iterable[Metric]:
        """Nothing: there are no workers yet when the registry calls this."""
        return ()


def text(metrics: GatewayMetrics, scraped: Scraped) -> bytes:
    """The metrics in Prometheus' text format. Blocks while workers respond: do not call it on the event loop's
    thread."""
    return generate_latest(_registry(metrics, scraped))


def serve(port: int, metrics: GatewayMetrics, scraped: Scraped) -> None:
    """Serves the metrics on a port; 0 does not. Raises OSError if the port is not available."""
    if not port:
        return
    try:
        start_http_server(port, registry=_registry(metrics, scraped))
    except OSError as error:
        raise OSError(f"--metrics-port: cannot listen on {port}: {error.strerror}") from None


def _registry(metrics: GatewayMetrics, scraped: Scraped) -> CollectorRegistry:
    whole = CollectorRegistry()
    whole.register(_Merged(metrics, scraped))
    return whole
