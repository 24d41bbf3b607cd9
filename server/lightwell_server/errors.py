"""The service's errors, each with one status. Only the service turns these into gRPC statuses with details."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import ClassVar

import grpc

Code = grpc.StatusCode

COMPARED = 200
"""Characters of a wrong name that are compared with the right ones."""


@dataclass
class LightwellError(Exception):
    """A failure that is reported to a caller. `message` says what to change; `reason` is for programs."""

    message: str
    reason: str = ""
    code: ClassVar[Code] = Code.INTERNAL

    def __post_init__(self) -> None:
        # Names on disk that a message quotes may contain bytes that are not valid text, and protobuf rejects those.
        self.message = self.message.encode(errors="backslashreplace").decode()

    def __str__(self) -> str:
        return self.message


@dataclass
class InvalidArgument(LightwellError):
    """A bad parameter, image or layer. `violations` are pairs of a field's path and what is wrong with it."""

    reason: str = "INVALID_ARGUMENT"
    violations: list[tuple[str, str]] = field(default_factory=list)
    code = Code.INVALID_ARGUMENT

    @classmethod
    def at(cls, path: str, message: str) -> InvalidArgument:
        """One bad field."""
        return cls(f"{path}: {message}", violations=[(path, message)])


@dataclass
class NotFound(LightwellError):
    """An unknown model or version."""

    reason: str = "NOT_FOUND"
    resource_type: str = "model"
    resource_name: str = ""
    code = Code.NOT_FOUND


@dataclass
class NotApplicable(LightwellError):
    """A method that does not apply to this model; `subject` names both."""

    reason: str = "METHOD_NOT_APPLICABLE"
    subject: str = ""
    code = Code.FAILED_PRECONDITION


@dataclass
class Unauthenticated(LightwellError):
    """A caller that the server cannot identify."""

    reason: str = "UNAUTHENTICATED"
    code = Code.UNAUTHENTICATED


@dataclass
class Forbidden(LightwellError):
    """A known caller without the right to this call."""

    reason: str = "PERMISSION_DENIED"
    code = Code.PERMISSION_DENIED


@dataclass
class Overloaded(LightwellError):
    """The queue is full; the call may be retried after `retry_seconds`."""

    reason: str = "QUEUE_FULL"
    retry_seconds: float = 1.0
    code = Code.RESOURCE_EXHAUSTED


@dataclass
class OutOfMemory(LightwellError):
    """The device cannot hold even one row of the request."""

    reason: str = "DEVICE_OUT_OF_MEMORY"
    code = Code.RESOURCE_EXHAUSTED


@dataclass
class Aborted(LightwellError):
    """Ended for good: the request has crashed its worker (reason POISONED), or an operator stopped it (STOPPED)."""

    reason: str = "STOPPED"
    code = Code.ABORTED


@dataclass
class Unavailable(LightwellError):
    """Stopping, or not ready; the call may be retried elsewhere."""

    reason: str = "DRAINING"
    retry_seconds: float = 0.5
    code = Code.UNAVAILABLE


@dataclass
class DeadlineExceeded(LightwellError):
    """The deadline has passed, or is too short to begin (reason DEADLINE_TOO_SHORT)."""

    reason: str = "DEADLINE_EXCEEDED"
    code = Code.DEADLINE_EXCEEDED


@dataclass
class Refused(LightwellError):
    """A model file that cannot be explained, with the node and source line that are the cause."""

    reason: str = "MODEL_REFUSED"
    code = Code.FAILED_PRECONDITION


@dataclass
class Internal(LightwellError):
    """A bug. The traceback is in the log under the request's id and is not sent to the caller."""

    reason: str = "INTERNAL"
    code = Code.INTERNAL


def nearest(name: str, names: list[str]) -> str:
    """A sentence with the names nearest to a wrong one. Only the beginning of a very long one is compared."""
    close = get_close_matches(name[:COMPARED], names, n=3, cutoff=0.4) or names[:3]
    return f"the nearest are {', '.join(close)}" if close else "there are none"


def ruinous(error: BaseException) -> bool:
    """Whether an error means that an accelerator has failed in this process: no further call of it works, and only a
    new process helps."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def last_line(error: Exception) -> str:
    """An error's message, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
