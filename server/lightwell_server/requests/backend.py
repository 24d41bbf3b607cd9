"""What runs requests for the services: a device of this process, or worker processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, Protocol

from google.protobuf.message import Message
from prometheus_client.metrics_core import Metric

from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import explain_pb2 as explain
from lightwell.v1 import models_pb2 as models
from lightwell.v1 import synthesize_pb2 as synthesize
from lightwell_server.catalog import Request
from lightwell_server.requests.admitted import AdmittedRequest

Response = explain.ExplainProgress | explain.ExplainResponse | synthesize.Progress | synthesize.SynthesizeResult
"""What a request yields: progress, and last its result."""


class Backend(Protocol):
    """What runs requests: a device of this process, or worker processes."""

    @property
    def workers(self) -> int:
        """How many devices serve now."""

    @property
    def warm(self) -> bool:
        """Whether one serves every model that can load."""

    def answers(self, name: str, version: str) -> bool:
        """Whether one serves that version."""

    async def supervise(self) -> None:
        """Returns when the backend has failed for good."""

    def run(self, request: Request, admitted: AdmittedRequest) -> AsyncGenerator[Response, None]:
        """Runs a request; closing the generator stops it at the next step. Raises LightwellError."""

    def query(self, rpc: str, request: Any, admitted: AdmittedRequest) -> AsyncGenerator[Message, None]:  # noqa: ANN401
        """Runs a query. Yields one message, or several if the rpc streams. Raises LightwellError."""

    async def load(self, name: str, version: str) -> models.GetModelResponse:
        """Loads and warms a version; loaded versions keep serving. Raises `Refused`."""

    async def unload(self, name: str, version: str) -> None:
        """Unloads a version."""

    def attained(self) -> Mapping[int, float]:
        """Device seconds that requests have used so far, by number, as last reported."""

    def statuses(self) -> list[admin.WorkerStatus]:
        """The status of each device."""

    def scraped(self) -> Iterable[Metric]:
        """The metrics of all devices, those of worker processes with the label `worker`. Safe from any thread except
        the event loop's, for which it may have to wait."""

    async def stop(self) -> None:
        """Stops the backend."""
