"""How both clients reach a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc

MAX_MESSAGE_BYTES = 256 * 2**20

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "3s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.2},
}


def options() -> list[tuple[str, Any]]:
    """Channel options: message limits, and retries of UNAVAILABLE within a budget, spread over all addresses of the
    name."""
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.keepalive_time_ms", 60_000),
    ]


def credentials(certificates: str | Path | bool) -> grpc.ChannelCredentials | None:
    """TLS with the system's authorities (True), with those of a file (a path), or none (False)."""
    if certificates is False:
        return None
    return grpc.ssl_channel_credentials(None if certificates is True else Path(certificates).read_bytes())


def metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """The headers of every call."""
    return (("authorization", f"Bearer {token}"),) if token else ()
