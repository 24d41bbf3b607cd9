"""Which models a request uses."""

from __future__ import annotations

from collections.abc import Mapping

from lightwell_server.catalog import Request, method_of
from lightwell_server.errors import InvalidArgument

Key = tuple[str, str]
"""A model's name and version."""


def roles(request: Request) -> dict[str, str]:
    """The names of the further models of a request, by the parameters that name them."""
    method = method_of(request)
    parameters = getattr(request, method.name)
    return {role: name for role in method.needs.models if (name := getattr(parameters, role))}


def models_of(request: Request) -> Mapping[str | None, Key]:
    """The models of a request by role; None is its own. The request names loaded versions."""
    found: dict[str | None, Key] = {None: (request.model, request.version)}
    for role, name in roles(request).items():
        found[role] = name.partition("@")[0], name.partition("@")[2]
    return found


def check_role(request: Request, role: str, name: str, kind: str) -> None:
    """Raises InvalidArgument if the role does not take a model of that kind."""
    method = method_of(request)
    if (needed := method.needs.models[role]) != kind:
        raise InvalidArgument.at(f"{method.name}.{role}", f"{name} is a {kind}; name a {needed}")
