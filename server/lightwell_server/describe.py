"""Models as messages."""

from __future__ import annotations

from lightwell.v1 import models_pb2 as models
from lightwell_server.catalog import Method, catalog
from lightwell_server.models.store import Model, RefusedModel, Store

_KINDS = {
    "classifier": models.MODEL_KIND_CLASSIFIER,
    "stylizer": models.MODEL_KIND_STYLIZER,
    "generator": models.MODEL_KIND_GENERATOR,
}


def listed(store: Store) -> models.ListModelsResponse:
    """Every version of every model."""
    return models.ListModelsResponse(models=[_summary(model) for model in store.all()])


def described(model: Model) -> models.GetModelResponse:
    """All about one version."""
    return models.GetModelResponse(
        summary=_summary(model),
        card=_card(model),
        layers=[models.Layer(name=la.name, type=la.type, shape=la.shape) for la in model.facts.layers],
        methods=[_support(method, model) for method in catalog().values()],
        any_size=model.facts.any_size,
        batches=not model.graph.mixes_rows,
        inputs=model.graph.inputs,
    )


def _summary(model: Model | RefusedModel) -> models.ModelSummary:
    if isinstance(model, RefusedModel):
        return models.ModelSummary(
            name=model.name, version=model.version, state=models.MODEL_STATE_REFUSED, reason=model.reason
        )
    return models.ModelSummary(
        name=model.name,
        version=model.version,
        kind=_KINDS[model.card.kind],
        state=models.MODEL_STATE_READY,
        digest=model.digest,
    )


def _card(model: Model) -> models.Card:
    sample = model.card.sample()
    height, width = sample.size
    return models.Card(
        height=height, width=width, resize=model.card.resize, mean=sample.mean, std=sample.std, labels=model.labels
    )


def _support(method: Method, model: Model) -> models.MethodSupport:
    reason = method.applies(model.facts)
    if reason is not None:
        return models.MethodSupport(method=method.name, applies=False, reason=reason)
    return models.MethodSupport(method=method.name, applies=True, default_layers=_layers(method.defaults(model.facts)))


def _layers(defaults: dict[str, object]) -> list[str]:
    """The names of layers among a method's defaults."""
    found: list[str] = []
    for name, value in defaults.items():
        if "layer" in name:
            found.extend([value] if isinstance(value, str) else [part["layer"] for part in value])  # type: ignore[attr-defined]
    return list(dict.fromkeys(found))
