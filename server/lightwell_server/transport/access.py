"""Access: bearer tokens and their rights."""

from __future__ import annotations

import hashlib
import hmac
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
from annotated_types import Len
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from lightwell_server.errors import Forbidden, Unauthenticated
from lightwell_server.observability.metrics import GatewayMetrics
from lightwell_server.reload import Watched
from lightwell_server.requests.call import Right


class Token(BaseModel):
    """A caller's entry in the file of tokens: the token itself, or its SHA-256 in hexadecimal, and its rights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token: Annotated[str, Len(16)] | None = Field(None, repr=False)
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None
    rights: Annotated[tuple[Right, ...], Len(1)] = ("explain",)

    @model_validator(mode="after")
    def _one(self) -> Token:
        if (self.token is None) == (self.sha256 is None):
            raise ValueError("set one of token and sha256")
        return self

    @property
    def digest(self) -> bytes:
        """SHA-256 of the token."""
        return hashlib.sha256(self.token.encode()).digest() if self.token else bytes.fromhex(self.sha256 or "")


@dataclass(frozen=True)
class Caller:
    """A caller's name and rights."""

    name: str
    rights: tuple[Right, ...]


class Access:
    """Identifies callers by the tokens of a file: TOML with a table for each caller, `[name]` with `token` (or
    `sha256`) and `rights`. Without a file every caller has all rights, and is identified by certificate or address."""

    def __init__(self, tokens: Path | None, metrics: GatewayMetrics | None = None) -> None:
        self._tokens = Watched("tokens", [tokens], lambda: read(tokens), metrics) if tokens is not None else None

    def caller(self, metadata: Iterable[tuple[str, str | bytes]], right: Right, otherwise: str) -> str:
        """The caller's name; `otherwise` if no tokens are used. Raises `Unauthenticated` and `Forbidden`."""
        if self._tokens is None:
            return otherwise
        given = next((value for key, value in metadata if key == "authorization" and isinstance(value, str)), "")
        kind, _, token = given.partition(" ")
        if kind.lower() != "bearer" or not token:
            raise Unauthenticated("send a token: metadata `authorization: Bearer TOKEN`", reason="TOKEN_MISSING")
        caller = _known(self._tokens.get(), token.strip())
        if caller is None:
            raise Unauthenticated("the token is not known to this server", reason="TOKEN_UNKNOWN")
        if right not in caller.rights:
            raise Forbidden(f"{caller.name} has no right to {right}; ask for a token that has", reason="RIGHT_MISSING")
        return caller.name


def read(path: Path) -> Mapping[bytes, Caller]:
    """The callers of a file by their tokens' digests. Raises ValueError with the name of the wrong entry."""
    try:
        entries = TypeAdapter(dict[str, Token]).validate_python(tomllib.loads(path.read_text()))
    except ValidationError as error:  # its message contains the tokens
        wrong = ("".join(f"{part}: " for part in e["loc"]) + e["msg"] for e in error.errors(include_input=False))
        raise ValueError(f"{path}: {'; '.join(wrong)}") from None
    if not entries:
        raise ValueError(f"{path} names no caller")
    callers: dict[bytes, Caller] = {}
    for name, token in entries.items():
        known = callers.setdefault(token.digest, Caller(name, token.rights))
        if known.name != name:
            raise ValueError(f"{path}: {known.name} and {name} have the same token")
    return callers


def _known(callers: Mapping[bytes, Caller], token: str) -> Caller | None:
    """The caller with that token. All tokens are compared, each in constant time, so that the time reveals nothing."""
    digest = hashlib.sha256(token.encode()).digest()
    found = None
    for known, caller in callers.items():
        if hmac.compare_digest(known, digest):
            found = caller
    return found


def identity(context: grpc.aio.ServicerContext[object, object]) -> str:
    """The name in a caller's certificate, else its address without the port."""
    names = list(context.auth_context().get("x509_common_name", ()))
    return names[0].decode(errors="replace") if names else str(context.peer()).rpartition(":")[0]
