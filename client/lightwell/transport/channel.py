"""The channel to a server, for both clients."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio

from lightwell.transport.retry import FIRST_WAIT, GROWTH, LONGEST_WAIT, TOKEN_RATIO, TOKENS, Budget, Course
from lightwell.v1 import explainer_pb2

MAX_MESSAGE_BYTES = 256 * 2**20
MOST_RETRIES = 4
"""The most retries of a call with a single response: gRPC makes at most five attempts, whatever its policy says."""

Token = str | Callable[[], str] | None
"""A bearer token, or a function that returns one. It is called before each call, and before each attempt of a stream,
so that the token may change."""
Certificate = tuple[str | Path, str | Path]
"""The files of a certificate chain and of its key, both PEM."""


@dataclass(frozen=True)
class Connection:
    """The arguments of both clients. Raises ValueError for a certificate without TLS and for negative retries. Opening
    raises OSError for a file that cannot be read, and ValueError for one that is not PEM."""

    timeout: float | None = None
    tls: str | Path | bool = False
    certificate: Certificate | None = None
    token: Token = None
    retries: int = 3
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        if self.certificate is not None and self.tls is False:
            raise ValueError("a certificate is shown over TLS only; set tls, too")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}; it must be 0 or more")

    def open(self, address: str) -> grpc.Channel:
        """A channel to that server."""
        secure = self._credentials()
        if secure is None:
            return grpc.insecure_channel(address, self._options())
        return grpc.secure_channel(address, secure, self._options())

    def open_async(self, address: str) -> grpc.aio.Channel:
        """A channel to that server for the running event loop."""
        secure = self._credentials()
        if secure is None:
            return grpc.aio.insecure_channel(address, self._options())
        return grpc.aio.secure_channel(address, secure, self._options())

    def call(self, request_id: str) -> dict[str, Any]:
        """The arguments of a call: its timeout and its headers. Calls `token` if that is a function."""
        token = self.token() if callable(self.token) else self.token
        headers = [("x-request-id", request_id)]
        if token:
            headers.append(("authorization", f"Bearer {token}"))
        return {"timeout": self.timeout, "metadata": tuple(headers)}

    def course(self) -> Course:
        """The course of a new stream."""
        return Course(self.retries, self.timeout, self.budget)

    def _credentials(self) -> grpc.ChannelCredentials | None:
        if self.tls is False:
            return None
        authorities = None if self.tls is True else _pem(self.tls, "CERTIFICATE")
        if self.certificate is None:
            return grpc.ssl_channel_credentials(authorities)
        chain, key = self.certificate
        return grpc.ssl_channel_credentials(authorities, _pem(key, "PRIVATE KEY"), _pem(chain, "CERTIFICATE"))

    def _options(self) -> list[tuple[str, Any]]:
        """Limits of messages, retries of interrupted calls within a budget, and load balancing over all addresses of
        the name."""
        return [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.service_config", json.dumps(_service_config(self.retries))),
            ("grpc.enable_retries", int(self.retries > 0)),
            ("grpc.keepalive_time_ms", 60_000),
            # The next attempt finds a server that is back.
            ("grpc.max_reconnect_backoff_ms", round(LONGEST_WAIT * 1000)),
        ]


def _pem(path: str | Path, kind: str) -> bytes:
    """A file's bytes. Raises ValueError if it has no PEM block of that kind, because gRPC would only report a failed
    handshake."""
    data = Path(path).read_bytes()
    if f"{kind}-----".encode() not in data:
        raise ValueError(f"{path}: there is no {kind.lower()} in it; it must be a PEM file")
    return data


def new_request_id() -> str:
    """An identifier for a call, the same for all of its attempts."""
    return uuid4().hex


def _service_config(retries: int) -> dict[str, Any]:
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retries:
        policy = {
            "maxAttempts": 1 + min(retries, MOST_RETRIES),
            "initialBackoff": f"{FIRST_WAIT}s",
            "maxBackoff": f"{LONGEST_WAIT}s",
            "backoffMultiplier": GROWTH,
            "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],  # cancelling by the caller ends all attempts
        }
        config["methodConfig"] = [{"name": _unary(), "retryPolicy": policy}]
        config["retryThrottling"] = {"maxTokens": TOKENS, "tokenRatio": TOKEN_RATIO}
    return config


def _unary() -> list[dict[str, str]]:
    """The calls with a single response that may be retried. Streams are left out, because the clients retry them
    themselves, and both kinds of retries would multiply. So is `StopJob`, because a restarted server, or another one of
    the same name, may have another job with that number."""
    services = explainer_pb2.DESCRIPTOR.services_by_name.values()
    return [
        {"service": service.full_name, "method": method.name}
        for service in services
        for method in service.methods
        if not method.server_streaming and method.name != "StopJob"
    ]
