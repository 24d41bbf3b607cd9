"""Estimate: what a request would cost, and its resolved form."""

from __future__ import annotations

from collections.abc import Mapping

from lightwell.v1 import estimate_pb2 as estimates
from lightwell_server.catalog import Request
from lightwell_server.errors import InvalidArgument, NotApplicable
from lightwell_server.models.store import Model
from lightwell_server.requests.resolved import restore
from lightwell_server.runtime.costs import Pricing, cost_of
from lightwell_server.runtime.limits import Limits
from lightwell_server.runtime.prepare import prepare


def asked(request: estimates.EstimateRequest) -> Request:
    """The request to estimate. Raises InvalidArgument if there is none."""
    kind = request.WhichOneof("request")
    if kind is None:
        raise InvalidArgument.at("request", "set one of explain, synthesize")
    found: Request = getattr(request, kind)
    return found


def estimate(
    request: estimates.EstimateRequest, model: Model, further: Mapping[str, Model], limits: Limits, seconds: Pricing
) -> estimates.EstimateResponse:
    """The cost of a request on a device with these `limits`. Raises the errors of the request itself."""
    prepared = prepare(asked(request), model, further)
    cost = cost_of(prepared, limits, seconds)
    message = estimates.Cost(
        rows=round(cost.rows),
        gradients=round(cost.gradients),
        steps=cost.steps,
        may_stop_early=cost.early,
        memory_bytes=cost.memory,
        memory_limit_bytes=limits.bytes,
        device_seconds=cost.seconds,
    )
    resolved = {prepared.method.kind: prepared.resolved()}
    return estimates.EstimateResponse(applies=True, cost=message, **resolved)


def complete(response: estimates.EstimateResponse, request: estimates.EstimateRequest) -> estimates.EstimateResponse:
    """Puts back into the resolved request what was removed for the device."""
    if (resolved := response.WhichOneof("resolved")) is not None:
        restore(getattr(response, resolved), asked(request))
    return response


def not_applicable(error: NotApplicable) -> estimates.EstimateResponse:
    """A response, not an error, if the method does not apply."""
    return estimates.EstimateResponse(applies=False, reason=error.message)
