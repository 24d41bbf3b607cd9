"""Logs as JSON lines, and one line for each call."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping

from lightwell_server.requests.call import Call

log = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """One JSON object per line; times are in UTC. `always` are fields of each line."""

    converter = staticmethod(time.gmtime)

    def __init__(self, always: Mapping[str, object]) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def start(level: str, **always: object) -> None:
    """Sends all logs of at least that level to standard error, each with the fields `always`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(always))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)


class CallLog:
    """A line for each call that is over; a warning for one that took longer than `slow` seconds."""

    def __init__(self, slow: float) -> None:
        self._slow = slow

    def __call__(self, call: Call) -> None:
        """Logs the caller, the request, how the call ended, and where the time went."""
        fields = {
            "request_id": call.id,
            "rpc": call.rpc.rpartition("/")[2],
            "caller": call.caller,
            "method": call.method,
            "model": call.model,
            "code": call.code,
            "reason": call.reason,
            "seconds": round(call.seconds, 6),
        }
        for name in dict.fromkeys(span.name for span in call.spans):
            fields[f"{name}_seconds"] = round(call.spent(name), 6)
        slow = call.seconds > self._slow
        log.log(
            logging.WARNING if slow else logging.INFO,
            "slow call" if slow else "call",
            extra={"fields": {key: value for key, value in fields.items() if value != ""}},
        )
