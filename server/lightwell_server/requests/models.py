"""Which models a request uses."""

from __future__ import annotations

from collections.abc import Mapping

from lightwell_server.catalog import Method, Request, method_of
from lightwell_server.errors import InvalidArgument

Key = tuple[str, str]
"""A model's name and version."""


def models_of(request: Request) -> Mapping[str | None, Key]:
    """The models of a request by role; None is its own. The request names loaded versions."""
    method = method_of(request)
    parameters = getattr(request, method.name)
    found: dict[str | None, Key] = {None: (request.model, request.version)}
    for role in method.needs.models:
        name, _, version = getattr(parameters, role).partition("@")
        if name:
            found[role] = name, version
    return found


def check_role(method: Method, role: str, name: str, kind: str) -> None:
    """Raises InvalidArgument if the role does not take a model of that kind."""
    if (needed := method.needs.models[role]) != kind:
        raise InvalidArgument.at(f"{method.name}.{role}", f"{name} is a {kind}; name a {needed}")
