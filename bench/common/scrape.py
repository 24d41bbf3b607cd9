"""A server's own figures, scraped as Prometheus does."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from lightwell.serving import Server, served


@dataclass(frozen=True)
class Scrape:
    """The samples of one moment."""

    samples: list[Sample]

    def total(self, name: str) -> float:
        """The sum of the samples of that name over all labels; 0 where there are none yet."""
        return sum(sample.value for sample in self.samples if sample.name == name)

    def grown(self, before: Scrape, name: str) -> float:
        """By how much the total of that name has grown since an earlier moment."""
        return self.total(name) - before.total(name)


@contextmanager
def metered(repository: Path, *options: str) -> Iterator[tuple[Server, Callable[[], Scrape]]]:
    """A server, and a function that scrapes it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}/metrics"

    def scrape() -> Scrape:
        with urllib.request.urlopen(address) as page:
            families = text_string_to_metric_families(page.read().decode())
            return Scrape([sample for family in families for sample in family.samples])

    with served(repository, "--metrics-port", str(port), *options) as server:
        yield server, scrape
