"""Errors as gRPC statuses with details, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import any_pb2
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from lightwell_server.errors import (
    Aborted,
    Code,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    LightwellError,
    NotApplicable,
    NotFound,
    OutOfMemory,
    Overloaded,
    Refused,
    Unavailable,
)

DOMAIN = "lightwell"
# A status is sent in headers, which gRPC limits to 8 KiB: a larger one would not reach its caller.
MESSAGE_BYTES, FIELD_BYTES, DESCRIPTION_BYTES, VIOLATIONS_BYTES = 1000, 200, 500, 2000


def status(error: LightwellError) -> status_pb2.Status:
    """An error with its details, truncated to what gRPC carries: messages quote names that callers choose."""
    found: list[Any] = [details.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    message = _short(error.message, MESSAGE_BYTES)
    if isinstance(error, InvalidArgument) and error.violations:
        found.append(_bad_request(error.violations))
    if isinstance(error, Overloaded | Unavailable):
        retry = details.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_seconds * 1000))
        found.append(retry)
    if isinstance(error, NotFound):
        found.append(
            details.ResourceInfo(
                resource_type=error.resource_type, resource_name=_short(error.resource_name, FIELD_BYTES)
            )
        )
    if isinstance(error, NotApplicable):
        violation = details.PreconditionFailure.Violation(
            type="METHOD", subject=_short(error.subject, FIELD_BYTES), description=_short(message, DESCRIPTION_BYTES)
        )
        found.append(details.PreconditionFailure(violations=[violation]))
    packed = []
    for detail in found:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=error.code.value[0], message=message, details=packed)


def _bad_request(violations: Sequence[tuple[str, str]]) -> details.BadRequest:
    """The first violations that fit."""
    bad = details.BadRequest()
    for field, description in violations:
        bad.field_violations.add(field=_short(field, FIELD_BYTES), description=_short(description, DESCRIPTION_BYTES))
        if bad.ByteSize() > VIOLATIONS_BYTES:
            del bad.field_violations[-1]
            break
    return bad


def _short(text: str, most: int) -> str:
    """A text truncated to `most` bytes and an ellipsis."""
    data = text[: most + 1].encode(errors="replace")
    return text if len(data) <= most else data[:most].decode(errors="ignore") + "…"


def error_of(failure: status_pb2.Status) -> LightwellError | None:
    """The error that a status represents; None if Lightwell has not created it."""
    info, bad, retry = details.ErrorInfo(), details.BadRequest(), details.RetryInfo()
    resource, unmet = details.ResourceInfo(), details.PreconditionFailure()
    for detail in failure.details:
        for message in (info, bad, retry, resource, unmet):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    if info.domain != DOMAIN:
        return None
    code = next(code for code in Code if code.value[0] == failure.code)
    seconds = retry.retry_delay.ToMilliseconds() / 1000
    if code is Code.INVALID_ARGUMENT:
        violations = [(violation.field, violation.description) for violation in bad.field_violations]
        return InvalidArgument(failure.message, info.reason, violations)
    if code is Code.NOT_FOUND:
        return NotFound(failure.message, info.reason, resource.resource_type, resource.resource_name)
    if code is Code.FAILED_PRECONDITION and unmet.violations:
        return NotApplicable(failure.message, info.reason, unmet.violations[0].subject)
    if code is Code.RESOURCE_EXHAUSTED and retry.HasField("retry_delay"):
        return Overloaded(failure.message, info.reason, seconds)
    if code is Code.UNAVAILABLE:
        return Unavailable(failure.message, info.reason, seconds)
    return _PLAIN.get(code, Internal)(failure.message, info.reason)


_PLAIN: dict[Code, type[LightwellError]] = {
    Code.FAILED_PRECONDITION: Refused,
    Code.RESOURCE_EXHAUSTED: OutOfMemory,
    Code.DEADLINE_EXCEEDED: DeadlineExceeded,
    Code.ABORTED: Aborted,
}
