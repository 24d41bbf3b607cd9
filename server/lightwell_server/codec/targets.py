"""Conversion of targets from messages, with the choices that the model offers in errors, and to messages."""

from __future__ import annotations

from lightwell.v1 import types_pb2 as types
from lightwell_server.codec.tensors import from_tensor, to_tensor
from lightwell_server.contract import (
    OUTPUT,
    ChannelTarget,
    ClassTarget,
    ContrastTarget,
    DirectionTarget,
    ElementTarget,
    Facts,
    Grid,
    Readout,
    Target,
)
from lightwell_server.errors import InvalidArgument, nearest

_READOUTS: dict[types.Readout.ValueType, Readout] = {
    types.READOUT_UNSPECIFIED: "score",
    types.READOUT_SCORE: "score",
    types.READOUT_PROBABILITY: "probability",
    types.READOUT_LOG_PROBABILITY: "log_probability",
}


_NUMBERS = {readout: number for number, readout in _READOUTS.items() if number}


def read_target(message: types.Target, facts: Facts, labels: tuple[str, ...], aimed: bool = True) -> Target:
    """The target of a request. A method that is not `aimed` has none, but a bad one still raises. Raises
    InvalidArgument with the choices that there are."""
    kind = message.WhichOneof("target")
    if message.readout not in _READOUTS:
        raise InvalidArgument.at("target.readout", f"{message.readout} is no reading of a class")
    if aimed:
        return _named(message, kind, facts, labels)
    if kind is not None:
        _named(message, kind, facts, labels)
    return Target()


def _named(message: types.Target, kind: str | None, facts: Facts, labels: tuple[str, ...]) -> Target:
    if kind in (None, "class_index", "label", "contrast"):
        return _class_target(message, kind, facts, labels)
    if _READOUTS[message.readout] != "score":
        raise InvalidArgument.at("target.readout", f"only classes have probabilities; explain the score of the {kind}")
    if kind == "neuron":
        return _neuron(message.neuron, facts)
    if kind == "channel":
        _activations(message.channel.layer, message.channel.channel, "target.channel", facts)
        layer = message.channel.layer
        return ChannelTarget(layer or OUTPUT, message.channel.channel, grid=_grid(layer, facts))
    if kind == "element":
        return _element(message.element, facts)
    return _direction(message.direction, facts)


def _class_target(message: types.Target, kind: str | None, facts: Facts, labels: tuple[str, ...]) -> Target:
    readout, activation = _READOUTS[message.readout], facts.activation
    if not facts.classes:
        shape = list(facts.outputs[facts.output])
        raise InvalidArgument.at(
            f"target.{kind}" if kind else "target",
            f"the model's output {shape} is no scores of classes; name a channel, a neuron or an element of it",
        )
    if readout != "score" and activation == "none":
        raise InvalidArgument.at("target.readout", "the model's outputs are no probabilities; explain the score")
    if kind == "label":
        return ClassTarget(label_index(message.label, labels), readout, activation)
    if kind == "contrast":
        first = _class(message.contrast.class_index, "target.contrast.class_index", facts)
        against = _class(message.contrast.against, "target.contrast.against", facts)
        if first == against:
            raise InvalidArgument.at("target.contrast.against", f"is the same class, {first}; name another one")
        return ContrastTarget(first, against, readout, activation)
    index = _class(message.class_index, "target.class_index", facts) if kind else None
    return ClassTarget(index, readout, activation)


def _class(index: int, path: str, facts: Facts) -> int:
    if not 0 <= index < facts.classes:
        raise InvalidArgument.at(
            path, f"{index} is no class; the model has {facts.classes}, from 0 to {facts.classes - 1}"
        )
    return index


def label_index(label: str, labels: tuple[str, ...]) -> int:
    """The class of that name, or of one part of its comma-separated name. Raises InvalidArgument if no class or several
    classes match."""
    if not labels:
        raise InvalidArgument.at("target.label", "the model's card has no labels; name the class by its index")
    wanted = label.strip().casefold()
    whole = [i for i, name in enumerate(labels) if name.casefold() == wanted]
    found = whole or [
        i for i, name in enumerate(labels) if wanted in (part.strip().casefold() for part in name.split(","))
    ]
    if len(found) > 1:
        raise InvalidArgument.at(
            "target.label", f"{label!r} names several classes, {', '.join(map(str, found))}; name one by its index"
        )
    if not found:
        raise InvalidArgument.at(
            "target.label", f"there is no class {label!r}; {nearest(wanted, [name.casefold() for name in labels])}"
        )
    return found[0]


def _neuron(neuron: types.Neuron, facts: Facts) -> ChannelTarget:
    shape = _activations(neuron.layer, neuron.channel, "target.neuron", facts)
    layer = neuron.layer or OUTPUT
    if len(shape) == 1:
        return ChannelTarget(layer, neuron.channel)
    row = neuron.row if neuron.HasField("row") else shape[1] // 2
    column = neuron.column if neuron.HasField("column") else shape[2] // 2
    for name, place, size in (("row", row, shape[1]), ("column", column, shape[2])):
        if not 0 <= place < size:
            raise InvalidArgument.at(f"target.neuron.{name}", f"{place} is not within 0 to {size - 1}")
    return ChannelTarget(layer, neuron.channel, (row, column), _grid(neuron.layer, facts))


def _element(element: types.Element, facts: Facts) -> ElementTarget:
    path = element.output or facts.output
    if path not in facts.outputs:
        close = nearest(path, list(facts.outputs))
        raise InvalidArgument.at("target.element.output", f"the model has no output {path!r}; {close}")
    shape = facts.outputs[path]
    index = tuple(element.index) or ((0,) if shape == (1,) else ())  # a single number needs no index
    if len(index) != len(shape) or not all(0 <= place < size for place, size in zip(index, shape, strict=True)):
        raise InvalidArgument.at(
            "target.element.index", f"{list(index)} is no place in an output of shape {list(shape)}"
        )
    return ElementTarget(OUTPUT if path == facts.output else OUTPUT + path, index)


def _direction(direction: types.Direction, facts: Facts) -> DirectionTarget:
    shape = _shape(direction.layer, "target.direction", facts)
    vector = to_tensor(direction.vector, "target.direction.vector")
    if not vector.is_floating_point() or not bool(vector.float().isfinite().all()):
        raise InvalidArgument.at("target.direction.vector", "must be finite numbers of a floating type, below 3e38")
    if tuple(vector.shape) != shape[:1]:
        raise InvalidArgument.at(
            "target.direction.vector", f"has shape {list(vector.shape)}; the layer has {shape[0]} channels"
        )
    return DirectionTarget(direction.layer or OUTPUT, vector, _grid(direction.layer, facts))


def _activations(name: str, channel: int, path: str, facts: Facts) -> tuple[int, ...]:
    shape = _shape(name, path, facts)
    if not 0 <= channel < shape[0]:
        raise InvalidArgument.at(f"{path}.channel", f"{channel} is not within 0 to {shape[0] - 1}")
    return shape


def _shape(name: str, path: str, facts: Facts) -> tuple[int, ...]:
    """The shape of a layer with channels, tokens laid out as a grid; or of the main output if no layer is named."""
    layer = facts.layer(name) if name else None
    if layer is None and name:
        known = [layer.name for layer in facts.layers]
        raise InvalidArgument.at(f"{path}.layer", f"the model has no layer {name!r}; {nearest(name, known)}")
    shape = facts.outputs[facts.output] if layer is None else layer.shape
    if layer is not None and layer.grid is not None and layer.tokens:
        shape = (shape[1], layer.grid.rows, layer.grid.columns)
    if len(shape) not in (1, 3):
        raise InvalidArgument.at(f"{path}.layer", f"{name or 'the output'} has no channels; its shape is {list(shape)}")
    return shape


def _grid(name: str, facts: Facts) -> Grid | None:
    """The positions of a layer; None for the output."""
    layer = facts.layer(name) if name else None
    return None if layer is None else layer.grid


def write_target(target: Target, facts: Facts) -> types.Target:
    """The inverse of `read_target`. For a class that is not fixed only its readout is written."""
    message = types.Target(readout=_NUMBERS[getattr(target, "readout", "score")])
    if isinstance(target, ClassTarget) and target.index is not None:
        message.class_index = target.index
    elif isinstance(target, ContrastTarget):
        message.contrast.CopyFrom(types.Contrast(class_index=target.index, against=target.against))
    elif isinstance(target, ChannelTarget) and target.position is None:
        message.channel.CopyFrom(types.Channel(layer=_layer(target), channel=target.channel))
    elif isinstance(target, ChannelTarget) and target.position is not None:
        row, column = target.position
        message.neuron.CopyFrom(types.Neuron(layer=_layer(target), channel=target.channel, row=row, column=column))
    elif isinstance(target, ElementTarget):
        path = target.output.removeprefix(OUTPUT) or facts.output
        message.element.CopyFrom(types.Element(output=path, index=target.index))
    elif isinstance(target, DirectionTarget):
        vector = from_tensor(target.vector, types.DATA_TYPE_FLOAT64)
        message.direction.CopyFrom(types.Direction(layer=_layer(target), vector=vector))
    return message


def _layer(target: ChannelTarget | DirectionTarget) -> str:
    """The layer as a request names it; empty for the main output."""
    return "" if target.layer == OUTPUT else target.layer
