"""Estimate: what a request would cost and how it would be understood."""

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
    """The request that the question is about. Raises InvalidArgument if there is none."""
    kind = request.WhichOneof("request")
    if kind is None:
        raise InvalidArgument.at("request", "set one of explain, synthesize")
    found: Request = getattr(request, kind)
    return found


def estimate(
    request: estimates.EstimateRequest, model: Model, further: Mapping[str, Model], limits: Limits, seconds: Pricing
) -> estimates.EstimateResponse:
    """What a request would cost, where a step of the device keeps to `limits`. Raises what the request itself would."""
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
    """The resolved request with what was taken out of it for a device."""
    if (resolved := response.WhichOneof("resolved")) is not None:
        restore(getattr(response, resolved), asked(request))
    return response


def not_applicable(error: NotApplicable) -> estimates.EstimateResponse:
    """That the method does not apply is an answer, not a failure."""
    return estimates.EstimateResponse(applies=False, reason=error.message)
