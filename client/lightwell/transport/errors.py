"""The errors of the service as exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.rpc import error_details_pb2 as details
from grpc_status import rpc_status


class LightwellError(Exception):
    """A failed call. `code` is the gRPC status, `reason` an identifier for programs, `violations` pairs of a field and
    its error, `retry_seconds` the time after which to try again (None: the server gives none), `request_id` the call's
    identifier in the server's log."""

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode,
        reason: str = "",
        violations: tuple[tuple[str, str], ...] = (),
        retry_seconds: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.reason = message, code, reason
        self.violations, self.retry_seconds, self.request_id = violations, retry_seconds, request_id


class InvalidArgumentError(LightwellError):
    """A bad parameter, image or layer."""


class NotFoundError(LightwellError):
    """An unknown model or version."""


class NotApplicableError(LightwellError):
    """A method that does not apply to this model."""


class OverloadedError(LightwellError):
    """The server is overloaded, or has too little memory for the request."""


class UnavailableError(LightwellError):
    """The server cannot be reached, or is stopping."""


class DeadlineError(LightwellError):
    """The deadline passed before the response arrived."""


class UnauthenticatedError(LightwellError):
    """The server requires a token, and got none or an unknown one."""


class ForbiddenError(LightwellError):
    """The token is known, but lacks the right to this call."""


class AbortedError(LightwellError):
    """The server aborted the request, which should not be sent again: an operator stopped it (reason STOPPED), or it
    twice ended the worker that ran it alone (reason POISONED)."""


class CancelledCallError(LightwellError):
    """The call was cancelled on this side, by `cancel()` or by closing the client."""


_OWN = ("Locally cancelled by application!", "Channel closed!")
"""Parts of gRPC's message for a call that was cancelled on this side. Any other cancelled call was interrupted on its
way, and may be sent again."""


_KINDS: dict[grpc.StatusCode, type[LightwellError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: NotApplicableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: ForbiddenError,
    grpc.StatusCode.ABORTED: AbortedError,
    grpc.StatusCode.CANCELLED: CancelledCallError,
}


def error_for(
    code: grpc.StatusCode,
    message: str,
    reason: str = "",
    violations: tuple[tuple[str, str], ...] = (),
    retry_seconds: float | None = None,
    request_id: str = "",
) -> LightwellError:
    """The exception for a status."""
    return _KINDS.get(code, LightwellError)(message, code, reason, violations, retry_seconds, request_id)


def cancelled(request_id: str) -> LightwellError:
    """The exception for a call that was cancelled on this side."""
    return error_for(grpc.StatusCode.CANCELLED, "the call was cancelled", request_id=request_id)


@contextmanager
def translated(request_id: str) -> Iterator[None]:
    """Converts gRPC's errors within the block into those of this module."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc(error, request_id) from None


def from_rpc(error: Any, request_id: str) -> LightwellError:  # noqa: ANN401 - grpc's two error classes share no type
    """The exception for a failed call of either client."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # a proxy has replaced the status, and its details contain another one
        status = None
    info, bad, retry = details.ErrorInfo(), details.BadRequest(), details.RetryInfo()
    for detail in status.details if status is not None else ():
        for message in (info, bad, retry):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    violations = tuple((violation.field, violation.description) for violation in bad.field_violations)
    seconds = retry.retry_delay.ToMilliseconds() / 1000 if retry.HasField("retry_delay") else None
    message = error.details() or error.code().name
    if error.code() is grpc.StatusCode.CANCELLED and not any(own in message for own in _OWN):
        message = "the call was broken off on its way to the server or back; send it again"
        return error_for(grpc.StatusCode.UNAVAILABLE, message, "INTERRUPTED", request_id=request_id)
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:  # gRPC's own message does not mention the server
        message = "the server does not know this call; it may be of an older version"
    return error_for(error.code(), message, info.reason, violations, seconds, request_id)
