"""The metrics of all processes as one page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from lightwell_server import metrics

Scraped = Callable[[], Mapping[str, str] | None]
"""Gives each worker's metrics as text, by its name; None where all is in one process."""


class _Whole(Collector):
    """The figures of this process, and those of worker processes, each with the label `worker`. Both have some of the
    same families, each of which may come only once."""

    def __init__(self, scraped: Scraped) -> None:
        self._scraped = scraped

    def collect(self) -> Iterable[Metric]:
        """All figures, the families of all processes put together."""
        families = {family.name: family for family in metrics.FRONT.collect()}
        found = self._scraped()
        if found is None:
            yield from metrics.DEVICE.collect()
        for worker, text in (found or {}).items():
            for family in text_string_to_metric_families(text):
                whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    whole.samples.append(sample._replace(labels={"worker": worker, **sample.labels}))
        yield from families.values()

    def describe(self) -> Iterable[Metric]:
        """Nothing: workers are not asked before there are any."""
        return ()


def text(scraped: Scraped) -> bytes:
    """The metrics in Prometheus' text form. Workers are asked: call it beside the event loop."""
    return generate_latest(_registry(scraped))


def serve(port: int, scraped: Scraped) -> None:
    """Serves the metrics on a port; 0 does not. Raises OSError if it cannot be had."""
    if not port:
        return
    try:
        start_http_server(port, registry=_registry(scraped))
    except OSError as error:
        raise OSError(f"--metrics-port: cannot listen on {port}: {error.strerror}") from None


def _registry(scraped: Scraped) -> CollectorRegistry:
    whole = CollectorRegistry()
    whole.register(_Whole(scraped))
    return whole
