"""What the service refuses, as exceptions."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2 as details
from grpc_status import rpc_status


class LightwellError(Exception):
    """A failed call. `code` is the gRPC status, `reason` is for programs, `violations` are pairs of a field and what
    is wrong with it, `retry_seconds` says when another try is worthwhile (None: the server did not say)."""

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode,
        reason: str = "",
        violations: tuple[tuple[str, str], ...] = (),
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.reason = message, code, reason
        self.violations, self.retry_seconds = violations, retry_seconds


class InvalidArgumentError(LightwellError):
    """A bad parameter, image or layer."""


class NotFoundError(LightwellError):
    """An unknown model or version."""


class NotApplicableError(LightwellError):
    """A method that cannot be asked of this model."""


class OverloadedError(LightwellError):
    """The server has too much to do, or too little memory for the request."""


class UnavailableError(LightwellError):
    """The server cannot be reached, or is stopping."""


class DeadlineError(LightwellError):
    """The time was over before the answer came."""


_KINDS: dict[grpc.StatusCode, type[LightwellError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: NotApplicableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
}


def error_for(
    code: grpc.StatusCode,
    message: str,
    reason: str = "",
    violations: tuple[tuple[str, str], ...] = (),
    retry_seconds: float | None = None,
) -> LightwellError:
    """The exception that a status calls for."""
    return _KINDS.get(code, LightwellError)(message, code, reason, violations, retry_seconds)


def from_rpc(error: Any) -> LightwellError:  # noqa: ANN401 - grpc's two error classes share no type
    """The exception for a failed call of either client."""
    status = rpc_status.from_call(error)
    info, bad, retry = details.ErrorInfo(), details.BadRequest(), details.RetryInfo()
    for detail in status.details if status is not None else ():
        for message in (info, bad, retry):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    violations = tuple((violation.field, violation.description) for violation in bad.field_violations)
    seconds = retry.retry_delay.ToMilliseconds() / 1000 if retry.HasField("retry_delay") else None
    return error_for(error.code(), error.details() or error.code().name, info.reason, violations, seconds)
