"""Models as messages."""

from __future__ import annotations

from lightwell.v1 import models_pb2 as models
from lightwell_server.catalog import Method, catalog
from lightwell_server.codec import tensors
from lightwell_server.contract import Grid, Layer
from lightwell_server.models.store import Model

_KINDS = {
    "classifier": models.MODEL_KIND_CLASSIFIER,
    "stylizer": models.MODEL_KIND_STYLIZER,
    "generator": models.MODEL_KIND_GENERATOR,
}


def described(model: Model) -> models.GetModelResponse:
    """The full description of a version."""
    return models.GetModelResponse(
        summary=_summary(model),
        card=_card(model),
        layers=[_layer(layer) for layer in model.facts.layers],
        methods=[_support(method, model) for method in catalog().values()],
        any_size=model.facts.any_size,
        batches=not model.graph.row_by_row,
        inputs=model.graph.inputs,
        dtype=tensors.data_type(model.graph.dtype),
        notes=model.graph.notes,
        outputs=[
            models.Output(path=path, shape=shape, main=path == model.facts.output)
            for path, shape in model.facts.outputs.items()
        ],
    )


def _layer(layer: Layer) -> models.Layer:
    return models.Layer(
        name=layer.name,
        type=layer.type,
        shape=layer.shape,
        share=layer.share,
        aliases=layer.aliases,
        functional=layer.functional,
        grid=_grid(layer.grid),
    )


def _grid(grid: Grid | None) -> models.Grid | None:
    if grid is None:
        return None
    return models.Grid(rows=grid.rows, columns=grid.columns, front=grid.front, behind=grid.behind)


def _summary(model: Model) -> models.ModelSummary:
    return models.ModelSummary(
        name=model.name,
        version=model.version,
        kind=_KINDS[model.card.kind],
        state=models.MODEL_STATE_READY,
        digest=model.digest,
    )


def _card(model: Model) -> models.Card:
    height, width = model.card.input.size
    mean, std = model.card.normalisation
    return models.Card(
        height=height,
        width=width,
        resize=model.card.resize,
        mean=mean,
        std=std,
        labels=model.labels,
        channels=model.card.input.channels,
        interpolation=models.Interpolation.Value(f"INTERPOLATION_{model.card.input.interpolation.upper()}"),
        antialias=model.card.input.antialias,
        activation=models.Activation.Value(f"ACTIVATION_{model.facts.activation.upper()}"),
        output=model.card.output.path,
        order=models.ChannelOrder.Value(f"CHANNEL_ORDER_{model.card.input.order.upper()}"),
        layout=models.Layout.Value(f"LAYOUT_{model.card.input.layout.upper()}"),
        integers=model.card.input.dtype == "uint8",
        batch=model.card.input.batch,
        bands=model.card.input.drawn,
    )


def _support(method: Method, model: Model) -> models.MethodSupport:
    reason = method.applies(model.facts)
    if reason is not None:
        return models.MethodSupport(method=method.name, applies=False, reason=reason)
    return models.MethodSupport(
        method=method.name,
        applies=True,
        default_layers=method.layers(model.facts),
        choice=method.reason(model.facts),
    )
