"""What answers requests behind the services: a device of this process, or worker processes."""

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
"""What a request is answered with: progress, and last its result."""


class Backend(Protocol):
    """What answers requests: a device of this process, or worker processes."""

    @property
    def workers(self) -> int:
        """How many devices answer now."""

    @property
    def warm(self) -> bool:
        """Whether one answers with every model that can load."""

    def answers(self, name: str, version: str) -> bool:
        """Whether one answers with that version."""

    async def supervise(self) -> None:
        """Returns when nothing will ever answer again."""

    def run(self, request: Request, admitted: AdmittedRequest) -> AsyncGenerator[Response, None]:
        """Answers a request; closing it stops the work at the next step. Raises LightwellError."""

    def query(self, rpc: str, request: Any, admitted: AdmittedRequest) -> AsyncGenerator[Message, None]:  # noqa: ANN401
        """Answers a call without a run; one message, or several where it streams. Raises LightwellError."""

    async def load(self, name: str, version: str) -> models.GetModelResponse:
        """Loads a version beside what is there, and warms it. Raises `Refused`."""

    async def unload(self, name: str, version: str) -> None:
        """Lets go of a version."""

    def attained(self) -> Mapping[int, float]:
        """Device seconds that requests have used so far, by number, as far as is known."""

    def statuses(self) -> list[admin.WorkerStatus]:
        """How each device is."""

    def scraped(self) -> Iterable[Metric]:
        """The metrics of all devices, those of worker processes with the label `worker`. Safe from any thread but the
        event loop's, which it may have to wait for."""

    async def stop(self) -> None:
        """Ends what answers."""
